"""dataset: rows as Arrow: typed columns with nulls beside NaN, batch by batch.

Polars and pandas take them without a copy. Beside the features stand `request`, `entity`, `t_ms`, `o`, `label`,
`label_state`, and a column `by_NAME` for each that the gate slices by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from penstock.dataset.rows import Batch
from penstock.feature import FeatureSet
from penstock.feature.definition.meaning import returned, types_of
from penstock.feature.definition.plan import Node, column_types, value_types
from penstock.feature.replay import Answers
from penstock.record.errors import Refused

Kinds = frozenset[type]
NUMBERS: Kinds = frozenset((int, float, bool))
BESIDE = ("request", "entity", "t_ms", "o", "label", "label_state")


def kinds_of_features(features: FeatureSet) -> list[Kinds]:
    """What each feature's values may be, besides null; empty: it does not say."""
    kinds: list[Kinds] = []
    for node in features.nodes:
        kinds.append(_kinds(node, features, kinds))
    return [kinds[place] for place in features.outputs]


def _kinds(node: Node, features: FeatureSet, before: Sequence[Kinds]) -> Kinds:
    if node.column:
        return column_types(features.request.schema, node.column)
    if node.aggregate is not None:
        default = node.aggregate.default
        return value_types(node.aggregate) | (set() if default is None else {type(default)})
    if node.function is not None:
        return returned(node.function.function)
    return types_of(node.operation, lambda leaf: before[node.places[id(leaf)]])


def schema(features: FeatureSet, first: Batch) -> Any:
    """The columns and their types. Where a feature does not say what it returns, the first batch does."""
    import pyarrow as pa

    names = [*BESIDE, *features.names, *(f"by_{name}" for name in first.facts)]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise Refused(
            f'A dataset has a column "{twice}" of its own.', code="name_taken", hint="Rename the feature."
        )
    types = [
        _type(kinds) or _seen(first.columns.get(name))
        for name, kinds in zip(features.names, kinds_of_features(features), strict=True)
    ]
    fields = [("request", pa.string()), ("entity", pa.string()), ("t_ms", pa.int64()), ("o", pa.int64())]
    fields += zip(features.names, types, strict=True)
    fields += [("label", pa.float64()), ("label_state", pa.string())]
    fields += [(f"by_{name}", pa.string()) for name in first.facts]
    return pa.schema(fields, metadata={"features": features.digest})


def _type(kinds: Kinds) -> Any:
    """The narrowest type of a column; None: nobody knows."""
    import pyarrow as pa

    for known, made in ((bool, pa.bool_()), (int, pa.int64()), (str, pa.string())):
        if kinds == frozenset((known,)):
            return made
    return pa.float64() if kinds and kinds <= NUMBERS else None


def _seen(column: Answers | None) -> Any:
    """The type that holds what a batch has; whole numbers may be followed by others."""
    kinds = frozenset(map(type, column.tolist() if column else ())) - {type(None)}
    if kinds == {bool} or (kinds and not kinds <= NUMBERS):
        return _type(kinds) or _type(frozenset((str,)))
    return _type(NUMBERS)


def arrow_batch(batch: Batch, schema: Any) -> Any:
    """One batch of rows as an Arrow record batch."""
    import pyarrow as pa

    beside = {
        "request": batch.requests, "entity": batch.entities, "t_ms": batch.t_ms, "o": batch.o, "label": batch.labels,
        "label_state": batch.states, **{f"by_{name}": told for name, told in batch.facts.items()},
    }  # fmt: skip
    arrays = [
        pa.array(beside[field.name], field.type) if field.name in beside
        else _array(field.name, batch.columns[field.name], field.type)
        for field in schema
    ]  # fmt: skip
    return pa.record_batch(arrays, schema=schema)


def arrow_column(column: Answers, type_: Any) -> Any:
    """One feature's values as an Arrow array of a type; numbers are not copied, and what is null comes as bits: of a
    mask pyarrow makes them a value at a time. Raises what pyarrow does where the values do not fit."""
    import pyarrow as pa

    values, valid = column.values, column.valid
    if values.dtype == object:
        return pa.array(_fitting(column.tolist(), type_), type_)
    if pa.types.is_floating(type_):
        values = values.astype(np.float64, copy=False)
    if values.dtype == bool or type_ != pa.from_numpy_dtype(values.dtype):
        return pa.array(values, type_, mask=None if valid is None else ~valid, from_pandas=False)
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(type_, len(values), [bits, pa.py_buffer(np.ascontiguousarray(values))])


def _array(name: str, column: Answers, type_: Any) -> Any:
    import pyarrow as pa

    try:
        return arrow_column(column, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, ValueError):
        raise Refused(
            f'The feature "{name}" is not always a {type_}.',
            code="wrong_type", hint="Say in its annotation what it returns: int, float, bool or str.",
        ) from None  # fmt: skip


def _fitting(values: Sequence[Any], type_: Any) -> Sequence[Any]:
    """Numbers of several kinds as floats; nothing else is changed."""
    import pyarrow as pa

    if not pa.types.is_floating(type_):
        return values
    return [float(value) if isinstance(value, (int, float)) else value for value in values]


def arrow_batches(features: FeatureSet, batches: Iterable[Batch]) -> Iterator[Any]:
    """Batches of rows as Arrow record batches of one schema."""
    made = None
    for batch in batches:
        made = made or schema(features, batch)
        yield arrow_batch(batch, made)


def table(features: FeatureSet, batches: Iterable[Batch]) -> Any:
    """All rows as one Arrow table: `polars.from_arrow(table)` and `table.to_pandas()` take it from here."""
    import pyarrow as pa

    found = list(arrow_batches(features, batches))
    return pa.Table.from_batches(found, found[0].schema if found else schema(features, NONE))


NONE = Batch([], [], [], [], [], {}, [], [], {})
