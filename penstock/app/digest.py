"""app: digests of what a log says, so that two runs of one history, on whatever engine, can be compared.

Left out is what no two runs share: measured seconds, and the positions that records happen to have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.log import Log
from penstock.record.codec import digest, pack
from penstock.record.decisions import Outcome, Prediction, outcomes, predictions, read
from penstock.release.registry import registry
from penstock.stage import every

MEASURED = frozenset({"train_s", "size_bytes", "evaluation", "p99_s", "latency_s"})
PLACED = frozenset({"o", "position", "batch", "intent", "verdict"})


def digests(log: Log, models: Sequence[str]) -> dict[str, str]:
    """The digests of the registry, of every prediction with its feature values, of every outcome."""
    known = registry(log).models
    entries = {name: _plain(known[name]) for name in models if name in known}
    said = [_row(read(r, Prediction)) for name in models for r in every(log, [predictions(name)])]
    found = [_row(read(r, Outcome)) for name in models for r in every(log, [outcomes(name)])]
    return {
        "registry": digest(pack(entries)),
        "predictions": digest(pack(sorted(map(pack, said)))),
        "outcomes": digest(pack(sorted(map(pack, found)))),
    }


def _row(value: msgspec.Struct) -> Any:
    """A flat record's fields: floats keep their bits, NaN among them."""
    return {
        name: field for name, field in msgspec.structs.asdict(value).items() if name not in MEASURED | PLACED
    }


def _plain(value: Any) -> Any:
    """A view's value as plain data."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(field) for name, field in _row(value).items()}
    if isinstance(value, dict):
        return {str(key): _plain(field) for key, field in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
