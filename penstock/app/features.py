"""app: feature sets by what people call them: a pipeline file, a home, or the digest of a set in a home."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.app.home import Books, open_home
from penstock.app.pipeline import load
from penstock.feature import FeatureSet
from penstock.record.errors import NotFound

LEAST = 6
"""A digest is named by so many of its first digits at least."""


def sets_of(text: str, home: Path) -> dict[str, FeatureSet]:
    """The feature sets that are meant, by model: those of a file, those that are up in a home, or the one of a
    digest among all that versions in `home` were bound to. Raises NotFound."""
    path = Path(text)
    if path.is_file():
        return {name: plan.features for name, plan in load(path).plans.items()}
    if path.is_dir():
        opened = open_home(path)
        try:
            return {name: plan.features for name, plan in opened.file().plans.items()}
        finally:
            opened.log.close()
    if re.fullmatch(f"[0-9a-f]{{{LEAST},64}}", text) and home.is_dir():
        return _by_digest(text, home)
    raise NotFound(
        f"There is no pipeline file, no home and no feature set {text!r}.",
        hint=f"A digest is looked up in --home, by {LEAST} digits or more.",
    )


def _by_digest(text: str, home: Path) -> dict[str, FeatureSet]:
    opened = open_home(home)
    try:
        books = Books(opened.file(), opened.log, opened.blobs)
        found = {
            model: features
            for model in books.plans
            for digest, features in books.sets(model).items()
            if digest.startswith(text)
        }
    finally:
        opened.log.close()
    if not found:
        raise NotFound(f"No version in {home} was bound to a feature set {text}.")
    return found
