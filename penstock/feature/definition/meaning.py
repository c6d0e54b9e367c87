"""feature: what definitions mean: their types, their canonical form for the digest, their spelling for people."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

from penstock.feature.definition import text
from penstock.feature.definition.evaluate import (
    ANY,
    BY_NULLS,
    CALENDAR,
    KINDS,
    NUMBER,
    NUMBERS,
    TRUTH,
    WHEN,
    WORD,
    time_zone,
    zones_version,
)
from penstock.feature.definition.expression import Expression, Op, at_line
from penstock.record.errors import DefinitionError


def types_of(one: Any, leaf: Callable[[Expression], frozenset[type]]) -> frozenset[type]:
    """The types that an expression's values may have, besides null; empty: nobody knows.
    Raises DefinitionError where an operation does not go with what it is given."""
    if not isinstance(one, Expression):
        return ANY if one is None else frozenset((type(one),))
    if not isinstance(one, Op):
        return leaf(one)
    found = [types_of(arg, leaf) for arg in one.args]
    if one.op in ("coalesce", "case"):
        parts = found if one.op == "coalesce" else [*found[1:-1:2], found[-1]]
        return frozenset().union(*parts)
    if one.op in BY_NULLS:
        return returned(one.function) if one.op == "call" else TRUTH
    kind = KINDS[one.op]
    firsts = found if one.op in "+-*/%" else found[:1]
    for mine in firsts:
        if kind.takes and not mine <= kind.takes:
            raise DefinitionError(
                f"{one.op} does not take {told(mine)}.", code="wrong_type", where=at_line(one.line)
            )
    if one.op in ("<", "<=", ">", ">=") and len({_family(mine) for mine in found} - {""}) > 1:
        raise DefinitionError(
            f"{' and '.join(told(mine) for mine in found)} have no order.",
            code="wrong_type", where=at_line(one.line),
        )  # fmt: skip
    if one.op in CALENDAR:
        time_zone(one.args[1])
    if one.op == "clip":
        return frozenset().union(*found)
    if kind.gives == NUMBER and all(mine == {int} or mine == {bool} for mine in found):
        return frozenset((int,))
    if kind.gives == NUMBER and any(mine == {float} for mine in found):
        return frozenset((float,))
    return kind.gives if kind.gives is not None else found[0]


def _family(kinds: frozenset[type]) -> str:
    if not kinds:
        return ""
    return "number" if kinds <= NUMBERS else "text" if kinds <= WORD else "time" if kinds <= WHEN else "mixed"


def returned(function: Callable[..., Any] | None) -> frozenset[type]:
    """What a row function says that it returns."""
    try:
        hint = typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return ANY
    return ANY if hint is Any else kinds_of(hint)


def kinds_of(hint: Any) -> frozenset[type]:
    """The types of an annotation, without None."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    parts = typing.get_args(hint) if union else (hint,)
    return frozenset(part for part in parts if part is not type(None))


def told(kinds: frozenset[type]) -> str:
    """Types in words."""
    return " | ".join(sorted(getattr(kind, "__name__", str(kind)) for kind in kinds)) or "anything"


def meaning(one: Any, leaf: Callable[[Expression], Any]) -> Any:
    """What an expression means, without its place and its words for people."""
    if not isinstance(one, Expression):
        return ["value", type(one).__name__, one]
    if not isinstance(one, Op):
        return leaf(one)
    parts = [one.op, *(meaning(arg, leaf) for arg in one.args)]
    if one.op in CALENDAR:
        parts.append(zones_version())
    if one.op in text.OPS:
        parts.append(text.version())
    if one.function is not None:
        parts.append(meaning_of(one.function))
    return parts


def literal(value: Any) -> str:
    """A plain value as one would write it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def spelled(one: Any, leaf: Callable[[Expression], str]) -> str:
    """An expression as one would write it."""
    if not isinstance(one, Expression):
        return literal(one)
    if not isinstance(one, Op):
        return leaf(one)
    parts = [spelled(arg, leaf) for arg in one.args]
    if one.op == "call":
        return f"{getattr(one.function, '__name__', 'row')}({', '.join(parts)})"
    if one.op in text.OPS:
        return text.spelled(one.op, parts[0], one.args[1:])
    if one.op == "case":
        pairs = [f"({a}, {b})" for a, b in zip(parts[:-1:2], parts[1:-1:2], strict=True)]
        return f"case({', '.join(pairs)}, otherwise={parts[-1]})"
    infix = {"&": "{} & {}", "|": "{} | {}", "~": "~{}"}.get(one.op) or (
        KINDS[one.op].spelled if one.op in KINDS else ""
    )
    if infix:
        return infix.format(
            *(f"({p})" if isinstance(a, Op) and " " in p else p for p, a in zip(parts, one.args, strict=True))
        )
    return f"{parts[0]}.{one.op}({', '.join(parts[1:])})"


# Functions by their meaning.

OF_A_FILE = "penstock_file_"
"""A pipeline file's module, and the modules kept with it, are named so and then by a digest."""


def meaning_of(function: Any, seen: set[int] | None = None) -> list[Any]:
    """A function's syntax tree without places and documentation, and what it uses of its module."""
    seen = set() if seen is None else seen
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
    names = sorted({part.id for part in ast.walk(tree) if isinstance(part, ast.Name)})
    used = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    return [
        ast.dump(tree),
        [[name, _used(value, seen)] for name, value in used],
        *[[name, _used(value, seen)] for name, value in _behind(tree, dict(used))],
    ]


def _behind(tree: ast.AST, used: dict[str, Any]) -> list[tuple[str, Any]]:
    """What is used of the modules beside the pipeline file: `cards.usual(x)` means what `usual` does."""
    reached = {
        (part.value.id, part.attr)
        for part in ast.walk(tree)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)
    }
    return [
        (f"{name}.{attribute}", getattr(used[name], attribute))
        for name, attribute in sorted(reached)
        if _beside(used.get(name)) and hasattr(used[name], attribute)
    ]


def _beside(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and value.__name__.startswith(OF_A_FILE)


def _used(value: Any, seen: set[int]) -> Any:
    """What a module's global means to a function: a constant by its value, a function by its own tree."""
    value = getattr(value, "function", value) if isinstance(value, Expression) else value
    if isinstance(value, types.FunctionType):
        return "again" if id(value) in seen else meaning_of(value, seen)
    if isinstance(value, (int, float, str, bytes, bool, tuple, frozenset, type(None))):
        return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)
    if isinstance(value, (dict, list, set)):
        return repr(sorted(value, key=repr)) if isinstance(value, set) else repr(value)
    name: str = getattr(value, "__name__", type(value).__name__)
    return name.partition(".")[2] if _beside(value) else name
