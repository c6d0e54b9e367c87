"""feature: definitions checked and put in order: a feature set, with the digest of what it means."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.feature.language import Aggregate, Function
from penstock.record.codec import digest, pack
from penstock.record.errors import DefinitionError
from penstock.record.event import Column, Source, unknown


class Key(msgspec.Struct, frozen=True):
    """What identifies a series of values: whose, of which events, at which grain."""

    topic: str
    entity: str
    column: str
    quantum: float


class Node(msgspec.Struct, frozen=True, eq=False):
    """One value on the way to a vector: a request's column, an aggregate, or a function of earlier nodes."""

    name: str
    column: str = ""
    aggregate: Aggregate | None = None
    series: int = -1
    entity: str = ""
    function: Function | None = None
    inputs: tuple[int, ...] = ()


class FeatureSet(msgspec.Struct, frozen=True, eq=False):
    """The features of a model, in order. `outputs[i]` is the node of `names[i]`.

    `digest` is over the meaning of the definitions, not over their spelling or place.
    """

    names: tuple[str, ...]
    request: Source
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    series: tuple[Key, ...]
    sources: dict[str, Source]
    digest: str

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that the features read, besides the request."""
        return tuple(sorted(self.sources))


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
        self.defined = {n: v for n, v in namespace.items() if isinstance(v, (Aggregate, Function))}
        self.names = {id(value): name for name, value in self.defined.items()}
        self.nodes: list[Node] = []
        self.places: dict[str, int] = {}
        self.meanings: dict[str, Any] = {}
        self.series: dict[Key, int] = {}
        self.sources: dict[str, Source] = {}
        self.path: list[str] = []

    def compile(self, features: Sequence[Any]) -> FeatureSet:
        if not features:
            raise DefinitionError("A pipeline needs at least one feature.", code="no_features")
        names = [self.name(one) for one in features]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise DefinitionError(f'The feature "{twice}" is listed twice.', code="feature_twice")
        outputs = [self.column(one.name, _line(one)) if isinstance(one, Column) else self.node(name)
                   for name, one in zip(names, features, strict=True)]  # fmt: skip
        for name, place in zip(names, outputs, strict=True):
            self.value_type(name, place)
        meaning = [
            self.request.topic,
            [[name, self.meanings[name]] for name in names],
            sorted(self.meanings.items()),
        ]
        return FeatureSet(
            tuple(names), self.request, tuple(self.nodes), tuple(outputs), tuple(self.series), self.sources,
            digest(pack(meaning)),
        )  # fmt: skip

    def name(self, one: Any) -> str:
        if isinstance(one, Column):
            if one.source is not self.request:
                raise DefinitionError(
                    f'"{one.name}" is a column of {one.source.topic}, not of the request.',
                    code="not_a_feature", hint=f"Say which of its values: last({one.source.topic}.{one.name}).",
                )  # fmt: skip
            return one.name
        if not isinstance(one, (Aggregate, Function)):
            kind = type(one).__name__
            raise DefinitionError(
                f"A {kind} is not a feature.", code="not_a_feature", hint="List features by their variables."
            )
        name = self.names.get(id(one), "")
        if not name:
            raise DefinitionError(
                "A feature has no name.",
                code="no_name",
                where=f"line {one.line}",
                hint="Put it in a variable.",
            )
        return name

    def node(self, name: str) -> int:
        """The place of a defined feature's node, made with everything that it needs."""
        if name in self.places:
            return self.places[name]
        one = self.defined[name]
        where = f"line {one.line}"
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
        made = self.aggregate(name, one) if isinstance(one, Aggregate) else self.function(name, one)
        self.path.pop()
        return self.put(name, made)

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
            self.meanings[name] = ["column", name]
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
        inputs = tuple(self.argument(argument, f"line {one.line}") for argument in one.arguments)
        self.meanings[name] = ["function", list(one.arguments), _meaning(one.function, set())]
        return Node(name, function=one, inputs=inputs)

    def aggregate(self, name: str, one: Aggregate) -> Node:
        where = f"line {one.line}"
        mine, asked = self.entity(one, where)
        if one.source is self.label and asked == self.request.id:
            raise DefinitionError(
                f"This reads the request's own truth from {one.source.topic}.",
                code="leak", where=where, hint="Aggregate over another entity, such as the customer.",
            )  # fmt: skip
        if one.kind in ("sum", "mean", "std", "min", "max"):
            types_ = _types(one.source, one.column)
            if not types_ <= {int, float, bool}:
                raise DefinitionError(
                    f'{one.kind}() needs numbers, and "{one.column}" is {_spelled(types_)}.',
                    code="wrong_type",
                    where=where,
                )
        if one.kind in ("first", "last") and datetime in _types(one.source, one.column):
            raise DefinitionError(
                f'"{one.column}" is a time, not a value.', code="wrong_type", where=where, hint="Use since()."
            )
        self.sources[one.source.topic] = one.source
        key = Key(one.source.topic, mine, one.column, one.quantum)
        series = self.series.setdefault(key, len(self.series))
        place = self.column(asked, where)
        self.meanings[name] = [
            one.kind,
            one.source.topic,
            mine,
            asked,
            one.column,
            one.window_ms,
            one.default,
            one.quantum,
        ]
        return Node(name, aggregate=one, series=series, entity=asked, inputs=(place,))

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
        a, b = _types(one.source, mine), _types(self.request, asked)
        if a != b:
            raise DefinitionError(
                f'"{mine}" of {one.source.topic} is {_spelled(a)}, "{asked}" of the request is {_spelled(b)}.',
                code="wrong_type", where=where,
            )  # fmt: skip
        return mine, asked

    def value_type(self, name: str, place: int) -> None:
        node = self.nodes[place]
        if node.column and not _types(self.request, node.column) <= {int, float, bool, str}:
            raise DefinitionError(
                f'"{name}" is {_spelled(_types(self.request, node.column))}, not a number, a bool or a text.',
                code="wrong_type", hint="Write a @feature that makes a value of it.",
            )  # fmt: skip


def _line(column: Column) -> str:
    return f"line {column.source.line}" if column.source.line else ""


def _types(source: Source, column: str) -> set[Any]:
    """The types of a column, without None."""
    hint = typing.get_type_hints(source.schema)[column]
    parts = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    return {part for part in parts if part is not type(None)}


def _spelled(kinds: set[Any]) -> str:
    return " | ".join(sorted(getattr(kind, "__name__", str(kind)) for kind in kinds))


def _meaning(function: types.FunctionType | Any, seen: set[int]) -> list[Any]:
    """A function's syntax tree without places and documentation, and what it uses of its module."""
    seen.add(id(function))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return [function.__code__.co_code, [repr(constant) for constant in function.__code__.co_consts]]
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef):
            part.decorator_list = []
            if ast.get_docstring(part) is not None:
                part.body = part.body[1:]
    used = [
        (name, function.__globals__[name]) for name in _global_names(tree) if name in function.__globals__
    ]
    return [ast.dump(tree), [[name, _used(value, seen)] for name, value in used]]


def _global_names(tree: ast.AST) -> list[str]:
    return sorted({part.id for part in ast.walk(tree) if isinstance(part, ast.Name)})


def _used(value: Any, seen: set[int]) -> Any:
    """What a module's global means to a function: a constant by its value, a function by its own tree."""
    if isinstance(value, Function):
        value = value.function
    if isinstance(value, types.FunctionType):
        return "again" if id(value) in seen else _meaning(value, seen)
    if isinstance(value, (int, float, str, bytes, bool, tuple, frozenset, type(None))):
        return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)
    if isinstance(value, (dict, list, set)):
        return repr(sorted(value, key=repr)) if isinstance(value, set) else repr(value)
    return getattr(value, "__name__", type(value).__name__)
