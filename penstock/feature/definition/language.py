"""feature: the words that a pipeline file defines features with. They only describe; `plan` checks, `fold` computes.

Some of them are named like Python's own functions, as the field names them; nothing here needs those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypedDict, Unpack

import msgspec

from penstock.feature.definition import text
from penstock.feature.definition.expression import Column, Expression, Note, at_line, here, leaves
from penstock.record.codec import span
from penstock.record.decisions import Value
from penstock.record.errors import DefinitionError
from penstock.record.event import Source, unknown

Kind = Literal[
    "count", "sum", "mean", "std", "min", "max", "first", "last", "distinct", "last_k", "since", "rate"
]
Entity = str | tuple[str, str] | None
MOST_K = 1000
SUMS = ("sum", "mean", "std")
"""Aggregates of integers: each number is first rounded to a multiple of the quantum."""

QUANTUM = 2.0**-20
"""Sums are sums of integers: each number is first rounded to a multiple of this, so that they are
exact, the same in any order, and do not drift as events expire."""
EXACT = 2.0**-1074
"""The smallest number there is: every number is a whole multiple of it."""


class Aggregate(Expression, frozen=True, eq=False, kw_only=True):
    """An aggregate over the events of one entity in the window (t - window, t]; 0: over all history.

    `value`: what of each event (None: the event itself); `where`: which events. `hop_ms`: the window's start
    is rounded down to a whole multiple of it, counted from 1970; `cap`: only the newest so many, by position,
    of the events that it takes (0: all). `k`: which of the newest values, for `last_k`; `per_ms`: for `rate`.
    """

    kind: Kind
    source: Source
    value: Expression | None = None
    where: Expression | None = None
    window_ms: int = 0
    entity: Entity = None
    default: Value = None
    quantum: float = QUANTUM
    hop_ms: int = 0
    cap: int = 0
    k: int = 0
    per_ms: int = 0

    @property
    def exact(self) -> bool:
        """Whether sums are the correctly rounded sums of the numbers as they are."""
        return self.quantum == EXACT

    @property
    def column(self) -> str:
        """The column that it aggregates, where it is a plain one."""
        return self.value.name if isinstance(self.value, Column) else ""


class Function(Expression, frozen=True, eq=False, kw_only=True):
    """A plain function of request columns and other features, by the names of its arguments."""

    function: Callable[..., Any]
    arguments: tuple[str, ...]


class Family(msgspec.Struct, frozen=True, eq=False):
    """Several features of one definition, by the suffix of each one's name: `n["1h"]` is the feature `n_1h`."""

    members: dict[str, Expression | Family]

    def __getitem__(self, suffix: str) -> Any:
        if suffix not in self.members:
            raise DefinitionError(unknown(suffix, self.members, "one of these"), code="unknown_member")
        return self.members[suffix]

    def flat(self, name: str) -> Iterator[tuple[str, Expression]]:
        """Every feature of it with its name."""
        for suffix, one in self.members.items():
            named = f"{name}_{suffix}"
            if isinstance(one, Family):
                yield from one.flat(named)
            else:
                yield named, one

    def described(self, description: str, *, owner: str = "", tags: tuple[str, ...] = ()) -> Family:
        """The same with a description of each."""
        return Family(
            {s: one.described(description, owner=owner, tags=tags) for s, one in self.members.items()}
        )


def feature(function: Callable[..., Any]) -> Function:
    """A feature worked out at the request from columns and other features, named by the arguments.

    It returns a number, a bool, a text or None, and must depend on nothing but its arguments.
    """
    code = function.__code__
    if code.co_flags & 0x0C or code.co_kwonlyargcount:
        raise DefinitionError(
            "A feature's arguments are names of columns and features.",
            code="arguments", where=f"line {code.co_firstlineno}", hint="Write them out, without * or **.",
        )  # fmt: skip
    said = (function.__doc__ or "").strip().split("\n\n")[0]
    arguments = code.co_varnames[: code.co_argcount]
    return Function(
        function=function, arguments=arguments, line=code.co_firstlineno, note=Note(" ".join(said.split()))
    )


class Options(TypedDict, total=False):
    """What every aggregate takes."""

    window: str
    windows: Sequence[str]
    entity: Entity
    where: Expression
    by: Expression
    categories: Sequence[Value]
    hop: str
    cap: int
    default: Value


class Sums(Options, total=False):
    """What aggregates of integers take besides."""

    quantum: float
    exact: bool


def count(of: Source | Expression, **options: Unpack[Options]) -> Any:
    """How many events; of a column: how many whose value is not null."""
    return _made("count", of, options)


def rate(of: Source | Expression, *, per: str = "1s", **options: Unpack[Options]) -> Any:
    """How many events a second of the window, or in what `per` says."""
    return _made("rate", of, options, per_ms=_span(per, at_line(here())))


def sum(of: Expression, **options: Unpack[Sums]) -> Any:
    """The sum of a column; 0.0 over an empty window."""
    return _made("sum", of, options)


def mean(of: Expression, **options: Unpack[Sums]) -> Any:
    """The mean of a column; null (or `default`) over an empty window."""
    return _made("mean", of, options)


def std(of: Expression, **options: Unpack[Sums]) -> Any:
    """The sample standard deviation of a column; null (or `default`) below two values."""
    return _made("std", of, options)


def min(of: Expression, **options: Unpack[Options]) -> Any:
    """The least value of a column."""
    return _made("min", of, options)


def max(of: Expression, **options: Unpack[Options]) -> Any:
    """The greatest value of a column."""
    return _made("max", of, options)


def first(of: Expression, **options: Unpack[Options]) -> Any:
    """The oldest value of a column; of equal times, the one that came first."""
    return _made("first", of, options)


def last(of: Expression, *, max_age: str = "", **options: Unpack[Options]) -> Any:
    """The newest value of a column, at most `max_age` old: also the look-up of a row that changes slowly."""
    if max_age:
        options["window"] = max_age
    return _made("last", of, options)


def last_k(of: Expression, k: int, **options: Unpack[Options]) -> Any:
    """The newest `k` values of a column: a family of `k` features, `NAME_1` the newest."""
    if not 0 < k <= MOST_K:
        where = at_line(here())
        raise DefinitionError(f"last_k() takes 1 to {MOST_K} values.", code="arguments", where=where)
    return Family({str(i): _made("last_k", of, options, k=i) for i in range(1, k + 1)})


def hashed(
    of: Expression, n: int, *, ngrams: tuple[int, int] = (1, 1), analyzer: text.Analyzer = "word"
) -> Family:
    """The n-grams of a text, hashed by scikit-learn into `n` numbers: a family `NAME_0` ... of as many features.
    `analyzer`: "word", "char" or "char_wb" (within words)."""
    return Family(dict(text.hashed(of, n, ngrams=ngrams, analyzer=analyzer)))


def distinct(of: Expression, **options: Unpack[Options]) -> Any:
    """How many different values of a column."""
    return _made("distinct", of, options)


def since(of: Source | Expression, **options: Unpack[Options]) -> Any:
    """Seconds since the newest event; of a column: since the newest one whose value is not null."""
    return _made("since", of, options)


def _made(kind: Kind, of: Any, options: Any, **more: Any) -> Any:
    """An aggregate, or the family of its windows and categories."""
    line = here()
    where = at_line(line)
    _check_names(kind, options, where)
    source, value = _of(kind, of, where)
    condition = options.get("where")
    _check_rows([one for one in (value, condition, options.get("by")) if one is not None], source, where)
    exact, quantum = options.get("exact", False), options.get("quantum", QUANTUM)
    if not quantum > 0:
        raise DefinitionError("quantum= is a positive number.", code="arguments", where=where)
    if not isinstance(options.get("cap", 0), int) or options.get("cap", 0) < 0:
        raise DefinitionError("cap= is a number of events.", code="arguments", where=where)
    hop = options.get("hop", "")
    one = Aggregate(
        line=line, kind=kind, source=source, value=value, where=condition,
        entity=options.get("entity"), default=options.get("default"),
        quantum=EXACT if exact else quantum, hop_ms=_span(hop, where) if hop else 0,
        cap=options.get("cap", 0), **more,
    )  # fmt: skip
    return _by(one, options.get("by"), tuple(options.get("categories", ())), options, where)


def _by(one: Aggregate, by: Any, categories: tuple[Value, ...], options: Any, where: str) -> Any:
    """The aggregate once a category and for all others, each over its windows."""
    if by is None and not categories:
        return _windows(one, options, where)
    if by is None or not categories:
        raise DefinitionError(
            "by= goes with the categories that are told apart.",
            code="arguments", where=where, hint='Write by=payment.country, categories=("DE", "US"), for example.',
        )  # fmt: skip

    def where_(condition: Expression) -> Expression:
        return condition if one.where is None else one.where & condition

    if len({*map(str, categories), "other"}) <= len(categories):
        raise DefinitionError(
            'Categories have different names, and none is "other".', code="arguments", where=where
        )
    members = {str(name): where_(by == name) for name in categories}
    members["other"] = where_(~by.is_in(*categories))
    return Family(
        {n: _windows(msgspec.structs.replace(one, where=w), options, where) for n, w in members.items()}
    )


def _windows(one: Aggregate, options: Any, where: str) -> Any:
    windows, window = tuple(options.get("windows", ())), options.get("window", "")
    if windows and window != "":
        raise DefinitionError("Give window= or windows=.", code="arguments", where=where)
    if windows:
        return Family({text: _window(one, text, where) for text in windows})
    return _window(one, window, where) if window != "" else _whole(one, where)


def _whole(one: Aggregate, where: str) -> Aggregate:
    if one.kind == "rate":
        raise DefinitionError("rate() needs a window.", code="arguments", where=where)
    if one.hop_ms:
        raise DefinitionError("hop= goes with a window.", code="arguments", where=where)
    return one


def _window(one: Aggregate, text: str, where: str) -> Aggregate:
    length_ms = _span(text, where)
    if one.hop_ms and one.kind == "last_k":
        raise DefinitionError("last_k() takes cap=, not hop=.", code="arguments", where=where)
    if one.hop_ms and one.cap:
        raise DefinitionError("Give hop= or cap=.", code="arguments", where=where)
    return msgspec.structs.replace(one, window_ms=length_ms)


def _check_names(kind: str, options: Any, where: str) -> None:
    known = {*Options.__annotations__, *(Sums.__annotations__ if kind in SUMS else ())}
    for name in options:
        if name not in known:
            raise DefinitionError(
                unknown(name, known, f"an option of {kind}()"), code="arguments", where=where
            )


def _of(kind: Kind, of: Any, where: str) -> tuple[Source, Expression | None]:
    """Whose events, and what of each."""
    if isinstance(of, Source) and kind in ("count", "since", "rate"):
        return of, None
    found = [one for one in leaves(of) if isinstance(one, Column)]
    if not found:
        raise DefinitionError(
            f"{kind}() takes a column of a source.",
            code="arguments", where=where, hint=f"Write {kind}(payment.amount, ...), for example.",
        )  # fmt: skip
    return found[0].source, of


def _check_rows(parts: Sequence[Any], source: Source, where: str) -> None:
    """What is aggregated is of one source's rows."""
    for part in parts:
        if not isinstance(part, Expression):
            raise DefinitionError("where= and by= are expressions of columns.", code="arguments", where=where)
        for leaf in leaves(part):
            if not isinstance(leaf, Column):
                raise DefinitionError(
                    "An aggregate is of a source's columns, not of other features.",
                    code="arguments", where=where, hint="Work it out of features with an operator or a @feature.",
                )  # fmt: skip
            if leaf.source is not source:
                raise DefinitionError(
                    f"An aggregate is over one source: {source.topic} or {leaf.source.topic}?",
                    code="arguments", where=where, hint="Aggregate each, then work out of both.",
                )  # fmt: skip


def _span(text: object, where: str) -> int:
    """Milliseconds."""
    try:
        if not isinstance(text, str):
            raise ValueError(f'{text!r} has no unit: write a text such as "1h"')
        length_ms = span(text)
    except ValueError as error:
        raise DefinitionError(f"{error}.", code="unit", where=where) from None
    if length_ms <= 0:
        raise DefinitionError("A window is longer than nothing.", code="unit", where=where)
    return length_ms
