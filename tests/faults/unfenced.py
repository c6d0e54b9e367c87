"""faults: the fence taken out of the engines. As a pytest plugin: of those that the contract is held against."""

from __future__ import annotations

from unittest import mock

from penstock.log import Append, Appended, Commit, tables
from penstock.log.writing import Writing


def _commit(writing: Writing, write: Commit) -> Appended:
    """By whoever held the stage once, and wherever it has come meanwhile: a zombie stands behind its successor, so
    that a position does not go back would hold it up as well."""
    at = tables.fact(writing.db, tables.Stage, write.stage) or tables.Stage()
    state = at.state if write.state is None else write.position.n
    tables.put(writing.db, write.stage, tables.Stage(at.epoch, write.position.n, state))
    if write.state is not None:
        tables.keep(writing.db, write.stage, write.position.n, write.state)
    done: Appended = writing.apply(Append(write.outputs))
    return done


UNFENCED = mock.patch.object(Writing, "_commit", _commit)
"""To be started, or entered: on Kafka in each home, for each applies what all others wrote."""


def pytest_configure() -> None:
    """Pytest has loaded this."""
    UNFENCED.start()
