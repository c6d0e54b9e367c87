"""faults: a pytest plugin that takes the fence out of the engines: the contract must notice."""

from __future__ import annotations

from penstock.log.tables import Writing
from tests.faults.kafka_child import unfenced

Writing._commit = unfenced  # type: ignore[method-assign]
