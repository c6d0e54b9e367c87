"""feature: a look-up: the values of a set for entities alone, without a request on the log."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import msgspec

from penstock.feature.definition.plan import FeatureSet
from penstock.feature.fold import Fold
from penstock.record.decisions import Value
from penstock.record.errors import PenstockError, Refused
from penstock.record.event import unknown
from penstock.record.poison import code_of, reason
from penstock.record.record import Position

Entity = Mapping[str, Any] | str
"""Whose values: the columns of the request that tell it, or the text of the only one that is needed."""


Columns = dict[str, Any]
"""What was given of a request, checked: the columns that are needed."""


class Values(msgspec.Struct, frozen=True, gc=False):
    """What a feature set is for one entity at (t, O). `digest` says by which definitions.

    Every record below `o` is in it and none from there on. `age_ms` is how far the newest tick below `o`
    lies behind `t_ms`, 0 where it does not: until that tick the log has told what time it is, and what
    happened since then may still be under way. Where there is no tick below `o` the newest event counts;
    None: there is nothing at all.
    """

    names: tuple[str, ...]
    values: list[Value]
    t_ms: int
    o: Position
    age_ms: int | None
    digest: str


class Looked(msgspec.Struct, frozen=True):
    """The same of many entities: a row each, in the order asked for."""

    names: tuple[str, ...]
    rows: list[list[Value]]
    t_ms: int
    o: Position
    age_ms: int | None
    digest: str

    def each(self) -> list[Values]:
        """The values of each entity by itself."""
        return [Values(self.names, row, self.t_ms, self.o, self.age_ms, self.digest) for row in self.rows]


class Choice:
    """Some features of a set, in the order asked for (none named: all), and the request's columns they need."""

    def __init__(self, features: FeatureSet, names: Iterable[str] = ()) -> None:
        self.features, self.names = features, tuple(names) or features.names
        places = dict(zip(features.names, features.outputs, strict=True))
        strange = next((name for name in self.names if name not in places), "")
        if strange:
            known = unknown(strange[:64], places, "a feature of this set")
            raise Refused(known, code="unknown_feature")
        if len(set(self.names)) < len(self.names):
            raise Refused("A feature is asked for twice.", code="feature_twice")
        self.needs = needs(features, self.names)
        self._names = () if self.names == features.names else self.names
        self._columns = frozenset(features.request.columns)
        self._type = _optional(features)

    def entity(self, given: Entity, *, strict: bool = True) -> Columns:
        """The columns that are needed of an entity, checked; raises Refused naming the column, never its value.
        Not `strict`: texts are read as what the column's type says."""
        if isinstance(given, str):
            given = {self._only(): given}
        strange = next((name for name in given if name not in self._columns), None)
        topic = self.features.request.topic
        if strange is not None:
            what = unknown(str(strange)[:64], self._columns, f"a column of the request {topic}")
            raise Refused(what, code="unknown_column")
        absent = next((name for name in self.needs if name not in given), "")
        if absent:
            raise self._absent(absent, given)
        try:
            checked = msgspec.convert(given, self._type, strict=strict)
        except msgspec.ValidationError as error:
            raise Refused(f"The entity does not fit {topic}: {reason(error)}.", code=code_of(error)) from None
        return {name: getattr(checked, name) for name in self.needs}

    def _only(self) -> str:
        if len(self.needs) == 1:
            return self.needs[0]
        named = ", ".join(f'"{name}"' for name in self.needs) or "none"
        raise Refused(
            f"These features need several columns of the request ({named}).",
            code="which_column", hint='Name them: {"COLUMN": VALUE, ...}.',
        )  # fmt: skip

    def _absent(self, absent: str, given: Mapping[str, Any]) -> Refused:
        """Which feature needs what is not given, and which ones can be had without it."""
        needed = {name: needs(self.features, [name]) for name in self.names}
        able = [name for name, some in needed.items() if set(some) <= given.keys()]
        needing = next(name for name, some in needed.items() if absent in some)
        mend = f"ask for these features only: {', '.join(able)}." if able else "name another entity."
        return Refused(
            f'"{needing}" needs the column "{absent}", which is not given.',
            code="missing_column", hint=f"Give it, or {mend}",
        )  # fmt: skip

    def read(self, fold: Fold, entities: Sequence[Columns], t_ms: int) -> list[list[Value]]:
        """The values of each at `t_ms`; raises Past as the fold does, Refused where a function of the file's fails."""
        try:
            return fold.get_many(entities, t_ms, self._names)
        except PenstockError:
            raise
        except Exception:  # a feature's function is the user's code, whatever it raises
            raise Refused(
                f'The function of "{self._failing(fold, entities, t_ms)}" fails on this.',
                code="feature_failed",
            ) from None

    def _failing(self, fold: Fold, entities: Sequence[Columns], t_ms: int) -> str:
        for columns, name in product(entities, self.names):
            try:
                fold.get(columns, t_ms, (name,))
            except Exception:  # this one
                return name
        return ""


def needs(features: FeatureSet, names: Iterable[str]) -> tuple[str, ...]:
    """The request's columns that some features are made of, in the request's order."""
    places = dict(zip(features.names, features.outputs, strict=True))
    waiting, found = [places[name] for name in names], set()
    while waiting:
        node = features.nodes[waiting.pop()]
        found.add(node.column)
        waiting += node.inputs
    return tuple(name for name in features.request.columns if name in found)


def _optional(features: FeatureSet) -> type[msgspec.Struct]:
    """The request's type with every column left out or null, if one likes: an entity without a name has no history."""
    hints = typing.get_type_hints(features.request.schema, include_extras=True)
    fields = [
        (name, hints[name] | None | msgspec.UnsetType, msgspec.UNSET) for name in features.request.columns
    ]
    return msgspec.defstruct("Entity", fields, kw_only=True, frozen=True, gc=False)
