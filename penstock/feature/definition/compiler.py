"""feature: definitions checked and put in order: a feature set, with the digest of what it means."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from penstock.feature.definition.evaluate import NUMBERS
from penstock.feature.definition.expression import Column, Expression, Op, at_line, leaves
from penstock.feature.definition.language import SUMS, Aggregate, Family, Function
from penstock.feature.definition.meaning import meaning, meaning_of, spelled, told, types_of
from penstock.feature.definition.plan import (
    VALUES,
    About,
    FeatureSet,
    Key,
    Node,
    column_types,
    derivation_of,
    key_of,
    row_meaning,
    row_text,
    row_types,
    value_types,
    written,
)
from penstock.feature.definition.source import descent, wider
from penstock.record.codec import digest, pack
from penstock.record.errors import DefinitionError
from penstock.record.event import Source, unknown


def compile(
    features: Sequence[Any],
    request: Source,
    namespace: Mapping[str, Any],
    *,
    label: Source | None = None,
    label_column: str = "",
) -> FeatureSet:
    """The feature set of a list of definitions, named by their variables in `namespace`.

    `label` is the source of the truth and `label_column` its column, which must not be seen by any
    feature of the request it is the truth of. Raises DefinitionError with the line and the mend.
    """
    return _Compiler(request, namespace, label, label_column).compile(features)


class _Compiler:
    def __init__(
        self, request: Source, namespace: Mapping[str, Any], label: Source | None, label_column: str
    ) -> None:
        self.request, self.label, self.label_column = request, label, label_column
        self.defined = dict(_defined(namespace))
        self.names = {id(value): name for name, value in reversed(self.defined.items())}
        self.nodes: list[Node] = []
        self.places: dict[str, int] = {}
        self.meanings: dict[str, Any] = {}
        self.about: dict[str, About] = {}
        self.series: dict[Key, int] = {}
        self.sources: dict[str, Source] = {}
        self.path: list[str] = []

    def compile(self, features: Sequence[Any]) -> FeatureSet:
        if not features:
            raise DefinitionError("A pipeline needs at least one feature.", code="no_features")
        listed = [one for given in features for one in self.members(given)]
        names = [self.name(one) for one in listed]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise DefinitionError(f'The feature "{twice}" is listed twice.', code="feature_twice")
        outputs = [self.column(one.name, at_line(one.line)) if isinstance(one, Column) else self.node(name)
                   for name, one in zip(names, listed, strict=True)]  # fmt: skip
        for name, place in zip(names, outputs, strict=True):
            self.value_type(name, place)
        meaning = [
            self.request.topic,
            [[name, self.meanings[name]] for name in names],
            sorted(self.meanings.items()),
        ]
        return FeatureSet(
            tuple(names), self.request, tuple(self.nodes), tuple(outputs), tuple(self.series), self.sources,
            digest(pack(meaning)), {name: self.about[name] for name in self.about}, self.meanings,
        )  # fmt: skip

    def members(self, one: Any) -> list[Any]:
        """A family's features, or the one."""
        return [member for _, member in one.flat("")] if isinstance(one, Family) else [one]

    def name(self, one: Any) -> str:
        if isinstance(one, Column):
            if one.source not in descent(self.request):
                raise DefinitionError(
                    f'"{one.name}" is a column of {one.source.topic}, not of the request.',
                    code="not_a_feature", hint=f"Say which of its values: last({one.source.topic}.{one.name}).",
                )  # fmt: skip
            return one.name
        if not isinstance(one, Expression):
            kind = type(one).__name__
            raise DefinitionError(
                f"A {kind} is not a feature.", code="not_a_feature", hint="List features by their variables."
            )
        name = self.names.get(id(one), "")
        if not name:
            raise DefinitionError(
                "A feature has no name.",
                code="no_name",
                where=at_line(one.line),
                hint="Put it in a variable.",
            )
        return name

    def node(self, name: str) -> int:
        """The place of a defined feature's node, made with everything that it needs."""
        if name in self.places:
            return self.places[name]
        one = self.defined[name]
        where = at_line(one.line)
        if name in self.request.columns:
            raise DefinitionError(
                f'"{name}" is a column of the request and a feature.',
                code="name_taken",
                where=where,
                hint="Rename the feature.",
            )
        if name in self.path:
            chain = " -> ".join([*self.path[self.path.index(name) :], name])
            raise DefinitionError(
                f"Features need each other in a circle: {chain}.", code="cycle", where=where
            )
        self.path.append(name)
        made = self.made(name, one)
        self.path.pop()
        return self.put(name, made)

    def made(self, name: str, one: Expression) -> Node:
        """The node of a definition."""
        if isinstance(one, Aggregate):
            return self.aggregate(name, one)
        if isinstance(one, Function):
            return self.function(name, one)
        assert isinstance(one, Op)
        return self.operation(name, one)

    def put(self, name: str, node: Node) -> int:
        self.places[name] = len(self.nodes)
        self.nodes.append(node)
        return self.places[name]

    def column(self, name: str, where: str) -> int:
        """A column of the request as a node."""
        if self.label is self.request and name == self.label_column:
            raise DefinitionError(
                f'"{name}" is the label itself.',
                code="leak",
                where=where,
                hint="A feature must be known before the label.",
            )
        if name not in self.places:
            self.meanings[name] = ["column", name, *derivation_of(self.request, name)]
            self.about[name] = About(f"{self.request.topic}.{name}", "column", (self.request.topic,))
            self.put(name, Node(name, column=name))
        return self.places[name]

    def argument(self, name: str, where: str) -> int:
        if name in self.request.columns:
            return self.column(name, where)
        if name in self.defined:
            return self.node(name)
        if self.label is not None and name in self.label.columns:
            raise DefinitionError(
                f'"{name}" is a column of {self.label.topic}: it is known only when the label is known.',
                code="leak", where=where, hint="Use the request's columns and features.",
            )  # fmt: skip
        known = [*self.request.columns, *self.defined]
        raise DefinitionError(
            unknown(name, known, "a column of the request or a feature"), code="unknown_column", where=where
        )

    def function(self, name: str, one: Function) -> Node:
        inputs = tuple(self.argument(argument, at_line(one.line)) for argument in one.arguments)
        self.meanings[name] = ["function", list(one.arguments), meaning_of(one.function)]
        text = f"{getattr(one.function, '__name__', name)}({', '.join(one.arguments)})"
        self.tell(name, one, text, "function", one.arguments, inputs)
        return Node(name, function=one, inputs=inputs)

    def operation(self, name: str, one: Op) -> Node:
        """An operation on columns of the request and on features; an aggregate in it needs no name."""
        places = {id(leaf): self.leaf(leaf, at_line(one.line)) for leaf in leaves(one)}
        types_of(one, self.leaf_types)
        self.meanings[name] = ["op", meaning(one, self.leaf_meaning)]
        inputs = tuple(dict.fromkeys(places.values()))
        needs = tuple(self.nodes[place].name for place in inputs)
        self.tell(name, one, spelled(one, self.leaf_text), "expression", needs, inputs)
        return Node(name, operation=one, places=places, inputs=inputs)

    def leaf(self, one: Expression, where: str) -> int:
        if isinstance(one, Column):
            self.name(one)
            return self.column(one.name, where)
        return self.node(self.leaf_name(one))

    def leaf_name(self, one: Expression) -> str:
        """A leaf's own name, or, where it has none, how it is spelled."""
        if isinstance(one, Column):
            return one.name
        name = self.names.get(id(one))
        if name is None:
            name = written(one)
            while name in self.defined and not _alike(self.defined[name], one):
                name += "'"
            self.names[id(one)] = name
            self.defined[name] = one
        return name

    def leaf_meaning(self, one: Expression) -> Any:
        return self.meanings[self.leaf_name(one)]

    def leaf_text(self, one: Expression) -> str:
        return f"{self.request.topic}.{one.name}" if isinstance(one, Column) else self.leaf_name(one)

    def leaf_types(self, one: Expression) -> frozenset[type]:
        """What a request's column or a feature may be."""
        if isinstance(one, Column):
            return column_types(one.source.schema, one.name)
        return value_types(one) if isinstance(one, Aggregate) else frozenset()

    def tell(
        self, name: str, one: Expression, text: str, kind: str, needs: Sequence[str], inputs: Sequence[int]
    ) -> None:
        behind = [self.about[self.nodes[place].name] for place in inputs]
        note = one.note
        self.about[name] = About(
            text, kind, tuple(sorted({topic for other in behind for topic in other.topics})), tuple(needs),
            max((other.window_ms for other in behind), default=0), note.description, note.owner, note.tags,
        )  # fmt: skip

    def aggregate(self, name: str, one: Aggregate) -> Node:
        where = at_line(one.line)
        mine, asked = self.entity(one, where)
        if one.source is self.label and asked == self.request.id:
            raise DefinitionError(
                f"This reads the request's own truth from {one.source.topic}.",
                code="leak", where=where, hint="Aggregate over another entity, such as the customer.",
            )  # fmt: skip
        _check_types(one, where)
        self.take(one.source, where)
        key = key_of(one, mine)
        series = self.series.setdefault(key, len(self.series))
        place = self.column(asked, where)
        self.meanings[name] = _aggregate_meaning(one, key, mine, asked)
        note = one.note
        self.about[name] = About(
            written(one), one.kind, (one.source.topic,), (asked,), one.window_ms, note.description, note.owner,
            note.tags,
        )  # fmt: skip
        return Node(name, aggregate=one, series=series, entity=asked, inputs=(place,))

    def take(self, source: Source, where: str) -> None:
        """Read a source. Of one topic the widest type is read: the request's may be that."""
        others = [
            self.sources.get(source.topic),
            self.request if source.topic == self.request.topic else None,
        ]
        for other in filter(None, others):
            widest = wider(source, other)
            if widest is None:
                raise DefinitionError(
                    f'Two sources share the topic "{source.topic}".', code="topic_taken", where=where
                )
            source = widest
        self.sources[source.topic] = source

    def entity(self, one: Aggregate, where: str) -> tuple[str, str]:
        """Whose events: the column of the source, and the column of the request that names the same."""
        given = one.entity or one.source.key
        mine, asked = (given, given) if isinstance(given, str) else given
        if not mine:
            raise DefinitionError(
                f"{one.source.topic} has no key.",
                code="no_key",
                where=where,
                hint="Say whose events: entity=.",
            )
        if mine not in one.source.columns:
            raise DefinitionError(
                unknown(mine, one.source.columns, f"a column of {one.source.topic}"),
                code="unknown_column",
                where=where,
            )
        if asked not in self.request.columns:
            text = unknown(asked, self.request.columns, f"a column of the request {self.request.topic}")
            hint = f'Say which one it is: entity=("{mine}", COLUMN OF THE REQUEST).'
            raise DefinitionError(text, code="unknown_column", where=where, hint=hint)
        a, b = column_types(one.source.schema, mine), column_types(self.request.schema, asked)
        if a != b:
            raise DefinitionError(
                f'"{mine}" of {one.source.topic} is {told(a)}, "{asked}" of the request is {told(b)}.',
                code="wrong_type", where=where,
            )  # fmt: skip
        if not a <= VALUES:
            raise DefinitionError(
                f'"{mine}" is {told(a)}, which names nobody.', code="wrong_type", where=where
            )
        return mine, asked

    def value_type(self, name: str, place: int) -> None:
        node = self.nodes[place]
        if node.column and not column_types(self.request.schema, node.column) <= VALUES:
            raise DefinitionError(
                f'"{name}" is {told(column_types(self.request.schema, node.column))}, not a number, a bool or a text.',
                code="wrong_type", hint="Write a @feature that makes a value of it.",
            )  # fmt: skip


def _spaces(namespace: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The names of a namespace, and behind them those of the modules in it: definitions may be shared so."""
    modules = [
        one for one in namespace.values()
        if isinstance(one, types.ModuleType) and one.__name__.partition(".")[0] != "penstock"
    ]  # fmt: skip
    shared = [pair for module in modules for pair in vars(module).items()]
    return [*namespace.items(), *((n, v) for n, v in shared if isinstance(v, (Expression, Family)))]


def _defined(namespace: Mapping[str, Any]) -> dict[str, Expression]:
    """Every definition by its name."""
    found: dict[str, Expression] = {}
    for name, value in _spaces(namespace):
        if isinstance(value, Family):
            for member, one in value.flat(name):
                found.setdefault(member, one)
        elif isinstance(value, Expression) and not isinstance(value, Column):
            found.setdefault(name, value)
    return found


def _check_types(one: Aggregate, where: str) -> None:
    kinds = frozenset() if one.value is None else row_types(one.value)
    row_types(one.where)
    if one.kind in (*SUMS, "min", "max") and not kinds <= NUMBERS:
        raise DefinitionError(
            f'{one.kind}() needs numbers, and "{spelled(one.value, row_text)}" is {told(kinds)}.',
            code="wrong_type",
            where=where,
        )
    if one.kind in ("first", "last", "last_k") and datetime in kinds:
        raise DefinitionError(
            f'"{spelled(one.value, row_text)}" is a time, not a value.',
            code="wrong_type", where=where, hint="Use since().",
        )  # fmt: skip


def _alike(a: Expression, b: Expression) -> bool:
    """Whether two aggregates that are written alike are the same: a row function's name does not say it all."""
    parts = [(one.value, one.where) for one in (a, b) if isinstance(one, Aggregate)]
    return len(parts) == 2 and len({pack([row_meaning(part) for part in pair]) for pair in parts}) == 1


def _aggregate_meaning(one: Aggregate, key: Key, mine: str, asked: str) -> list[Any]:
    """What was there from the start stands first, so that old definitions keep their digests."""
    more = {
        name: value
        for name, value in {
            "value": key.value, "where": key.where, "hop": one.hop_ms, "cap": one.cap, "k": one.k, "per": one.per_ms,
        }.items()
        if value
    }  # fmt: skip
    parts = [one.kind, one.source.topic, mine, asked, one.column, one.window_ms, one.default, one.quantum]
    return [*parts, more] if more else parts
