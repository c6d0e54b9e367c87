"""model: the trees form: sums of trees of any library as arrays, walked by numpy, all rows and trees at once.

It needs no library at all: what stands in where onnxruntime is not installed, and what the ONNX form is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.record.codec import unpack

Array = NDArray[Any]
Link = Literal["plain", "logistic", "exp"]
Precision = Literal["single", "rounded", "summed", "double"]


class Grown(NamedTuple):
    """One tree, a node a place in each array, the root first. A row goes left where its column is at most the
    limit, or missing and `strays` says so; at a leaf, where `left` is -1, it gets the value."""

    column: Array
    limit: Array
    strays: Array
    left: Array
    right: Array
    value: Array


class Trees(msgspec.Struct, frozen=True):
    """A row's score is the sum of its leaves, tree by tree, through the link.

    All trees lie end to end, as little-endian arrays: int32 `roots` (trees), `column`, `left`, `right` (nodes; a
    leaf leads to itself); float64 `limit`, `value`; `strays` a byte a node. `depth`: steps from a root to its
    furthest leaf. `precision`: what is in single precision: rows and sums ("single"), rows only ("rounded"), sums
    only ("summed"), or nothing ("double").
    """

    roots: bytes
    column: bytes
    limit: bytes
    strays: bytes
    left: bytes
    right: bytes
    value: bytes
    depth: int
    link: Link
    precision: Precision

    def arrays(self) -> Arrays:
        """The arrays."""
        whole = ("roots", "column", "left", "right")
        found = {name: np.frombuffer(getattr(self, name), "<i4").astype(np.intp) for name in whole}
        found |= {name: np.frombuffer(getattr(self, name), "<f8") for name in ("limit", "value")}
        return Arrays(**found, strays=np.frombuffer(self.strays, np.bool_))


class Arrays(NamedTuple):
    """The arrays of a form, to compute with."""

    roots: Array
    column: Array
    limit: Array
    strays: Array
    left: Array
    right: Array
    value: Array


def joined(grown: Sequence[Grown], base: float, link: Link, *, precision: Precision) -> Trees:
    """Trees as one form. What the sum begins with is a tree of one leaf: numbers are added in the library's order."""
    no = np.zeros(1, np.int64)
    grown = [Grown(no, no * 0.0, no > 0, no - 1, no - 1, no + base), *grown]
    roots = np.cumsum([0, *(len(one.left) for one in grown)])[:-1]
    leaf = np.concatenate([one.left < 0 for one in grown])
    own = np.arange(len(leaf))

    def whole(name: str) -> Array:
        return np.concatenate([getattr(one, name) for one in grown])

    begin = np.repeat(roots, [len(one.left) for one in grown])
    left, right = (np.where(leaf, own, whole(side) + begin) for side in ("left", "right"))
    return Trees(
        roots.astype("<i4").tobytes(),
        np.where(leaf, 0, whole("column")).astype("<i4").tobytes(),
        np.where(leaf, 0.0, whole("limit")).astype("<f8").tobytes(),
        (whole("strays").astype(bool) & ~leaf).tobytes(),
        left.astype("<i4").tobytes(),
        right.astype("<i4").tobytes(),
        np.where(leaf, whole("value"), 0.0).astype("<f8").tobytes(),
        _depth(roots, left, right, leaf), link, precision,
    )  # fmt: skip


def _depth(roots: Array, left: Array, right: Array, leaf: Array) -> int:
    depth, level = 0, roots[~leaf[roots]]
    while len(level):
        depth += 1
        level = np.concatenate([left[level], right[level]])
        level = level[~leaf[level]]
    return depth


def load(data: bytes) -> Any:
    """The function: each row is summed by itself in one order, so that it does not matter what stands beside it."""
    form = unpack(data, Trees)
    trees = form.arrays()
    sides = np.stack([trees.right, trees.left], axis=1).ravel()
    kind = np.float32 if form.precision in ("single", "rounded") else np.float64
    value = trees.value.astype(np.float32 if form.precision in ("single", "summed") else np.float64)

    def scores(x: Any) -> Any:
        flat, starts = x.astype(kind).ravel(), np.arange(len(x))[:, None] * x.shape[1]
        missing = bool(np.isnan(flat).any())
        at = np.broadcast_to(trees.roots, (len(x), len(trees.roots)))
        for _ in range(form.depth):
            seen = flat.take(trees.column.take(at) + starts)
            goes = seen <= trees.limit.take(at)
            if missing:
                goes |= np.isnan(seen) & trees.strays.take(at)
            at = sides.take(2 * at + goes)
        sums = np.cumsum(value.take(at), axis=1)[:, -1].astype(np.float64)
        if form.link == "plain":
            return sums
        with np.errstate(over="ignore"):
            return np.exp(sums) if form.link == "exp" else 1.0 / (1.0 + np.exp(-sums))

    return scores
