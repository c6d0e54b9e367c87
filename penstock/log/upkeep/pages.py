"""log: rows read out of an SQLite file page by page, whatever its trees say of them.

SQLite finds a row by way of a tree, so that one damaged page hides all that lies behind it. Here each page is
looked at for itself, as the last commit in the WAL left it. What is found is what lies there, and may be old or
wrong: who reads proves it by the rows' own checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from penstock.log.sqlite import PAGE_BYTES

TABLE, INDEX, INNER = 0x0D, 0x0A, 0x02
"""Pages that hold rows: leaves of tables, leaves and inner pages of what is kept under its key."""
FACT, BATCH, STATE, IDENT = (INDEX, "ttib"), (TABLE, "-iiib"), (TABLE, "tib"), (INDEX, "iti")
"""The shapes of the rows of a log."""
_KNOWN = {FACT, BATCH, STATE, IDENT, (INDEX, "ti")}  # and of states' names
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
_ODD = (IndexError, struct.error, ValueError)
_SAMPLE = 400


class Cell(NamedTuple):
    """Where a row lies: its page, its shape and, in a table, its number; then its bytes there and in all."""

    page: int
    shape: tuple[int, str]
    key: int
    at: int
    size: int
    local: int


class Pages:
    """The pages of a database whose file is open as `handle`, with those that its WAL has newer."""

    def __init__(self, handle: int, wal: bytes = b"") -> None:
        self._handle, self._wal = handle, wal
        self.newer, self.count, size = frames(wal)
        self.size = size or self._probable()
        self.count = self.count or os.fstat(handle).st_size // self.size
        self.free = self._free()

    def page(self, number: int) -> bytes:
        """A page as it lies there; ValueError where there is none."""
        begin = self.newer.get(number)
        if begin is not None:
            return self._wal[begin : begin + self.size]
        data = os.pread(self._handle, self.size, (number - 1) * self.size) if number > 0 else b""
        if len(data) < self.size:
            raise ValueError("there is no such page")
        return data

    def fold(self) -> None:
        """Write the newer pages into the file, as SQLite would: with the WAL beside it nothing is changed by it."""
        for number, begin in sorted(self.newer.items()):
            os.pwrite(self._handle, self._wal[begin : begin + self.size], (number - 1) * self.size)
        if self.newer:
            os.ftruncate(self._handle, self.count * self.size)

    def cells(self, number: int) -> list[Cell]:
        """The rows on a page that have the shape of a log's. Where the page is of no kind, or holds none of
        its kind, its kind may be what is damaged."""
        try:
            data = self.page(number)
        except ValueError:
            return []
        for kind in sorted((TABLE, INDEX, INNER), key=lambda kind: kind != data[0]):
            at = _pointers(data, kind) if kind == data[0] or _likely(data, kind) else ()
            found = [cell for one in at if (cell := self._cell(number, data, kind, one))]
            if found:
                return found
        return []

    def values(self, cell: Cell) -> tuple[Any, ...]:
        """The columns of a row; ValueError and its like where they cannot be made out."""
        data = self.page(cell.page)
        held = data[cell.at : cell.at + cell.local]
        if cell.local < cell.size:
            (more,) = struct.unpack_from(">I", data, cell.at + cell.local)
            held += self._overflow(more, cell.size - cell.local)
        types, at = _types(held)
        values: list[Any] = []
        for one in types:
            values.append(_value(one, held[at : at + _length(one)]))
            at += _length(one)
        return tuple(values)

    def _cell(self, number: int, data: bytes, kind: int, at: int) -> Cell | None:
        try:
            key, size, at = 0, *_varint(data, at + 4 * (kind == INNER))
            if kind == TABLE:
                key, at = _varint(data, at)
            local = self._local(size, kind)
            if kind != TABLE and 4 <= data[at] <= 6 and 0 < data[at + 1] < 10 and at + local <= len(data):
                return Cell(number, IDENT, 0, at, size, local)  # they are many, and seldom looked at
            types, head = _types(data[at : at + local])
        except _ODD:
            return None
        shape = TABLE if kind == TABLE else INDEX, "".join(map(_letter, types))
        fits = head + sum(map(_length, types)) == size and at + local <= len(data)
        return Cell(number, shape, key, at, size, local) if fits and shape in _KNOWN else None

    def _local(self, size: int, kind: int) -> int:
        """How many bytes of so large a row lie on its own page."""
        most = self.size - 35 if kind == TABLE else (self.size - 12) * 64 // 255 - 23
        least = (self.size - 12) * 32 // 255 - 23
        if size <= most:
            return size
        some: int = least + (size - least) % (self.size - 4)
        return some if some <= most else least

    def _overflow(self, number: int, left: int) -> bytes:
        parts: list[bytes] = []
        while left > 0:
            data = self.page(number)
            parts.append(data[4 : 4 + left])
            left -= len(parts[-1])
            (number,) = struct.unpack_from(">I", data)
        return b"".join(parts)

    def _free(self) -> set[int]:
        """The pages that are in no tree, as far as the list of them can be followed: their rows are old."""
        found: set[int] = set()
        try:
            (trunk,) = struct.unpack_from(">I", self.page(1), 32)
            while trunk and trunk not in found:
                following, n = struct.unpack_from(">II", data := self.page(trunk))
                found |= {trunk, *struct.unpack_from(f">{n}I", data, 8)}
                trunk = following
        except _ODD:
            pass
        return found

    def _probable(self) -> int:
        """The size of a page: what the header says, unless more rows are found at another."""
        said = int.from_bytes(os.pread(self._handle, 18, 0)[16:])
        sizes: list[int] = [said, PAGE_BYTES, *(1 << n for n in range(9, 16))]
        return max((one for one in sizes if one >= 512 and one & (one - 1) == 0), key=self._rows)

    def _rows(self, size: int) -> int:
        self.size = size
        pages = min(_SAMPLE * 512 // size + 4, os.fstat(self._handle).st_size // size)
        return sum(len(self.cells(number)) for number in range(2, pages + 1))


def frames(wal: bytes) -> tuple[dict[int, int], int, int]:
    """The newest pages in a WAL up to its last commit, as offsets; how many pages the database then has, and
    their size. Nothing where the WAL does not say."""
    newest: dict[int, int] = {}
    if len(wal) < 32:
        return newest, 0, 0
    magic, _, size, _ = struct.unpack_from(">4I", wal)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, (0, 0), wal[:24])
    if magic >> 1 != 0x377F0682 >> 1 or sums != struct.unpack_from(">2I", wal, 24):
        return newest, 0, 0
    open_: dict[int, int] = {}
    count = 0
    for at in range(32, len(wal) - size - 23, size + 24):
        page, commits = struct.unpack_from(">2I", wal, at)
        sums = _checksum(order, sums, wal[at : at + 8] + wal[at + 24 : at + 24 + size])
        if wal[at + 8 : at + 16] != wal[16:24] or sums != struct.unpack_from(">2I", wal, at + 16):
            break
        open_[page] = at + 24
        if commits:
            newest |= open_
            count = commits
            open_ = {}
    return newest, count, size if newest else 0


def _checksum(order: str, sums: tuple[int, int], data: bytes) -> tuple[int, int]:
    one, two = sums
    words: Sequence[int] = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        one = (one + x + two) & 0xFFFFFFFF
        two = (two + y + one) & 0xFFFFFFFF
    return one, two


def _pointers(data: bytes, kind: int) -> Iterator[int]:
    (n,) = struct.unpack_from(">H", data, 3)
    begin = 12 if kind == INNER else 8
    for at in range(begin, min(begin + 2 * n, len(data) - 1), 2):
        yield int.from_bytes(data[at : at + 2])


def _likely(data: bytes, kind: int) -> bool:
    """Whether a page may be of a kind that it is not marked with: its rows begin behind the list of them."""
    n, begin = int.from_bytes(data[3:5]), int.from_bytes(data[5:7])
    return n > 0 and (12 if kind == INNER else 8) + 2 * n <= begin <= next(_pointers(data, kind)) < len(data)


def _types(held: bytes) -> tuple[list[int], int]:
    """The types of a row's columns, and where the first begins."""
    head, at = _varint(held, 0)
    types: list[int] = []
    while at < head and len(types) < 6:
        one, at = _varint(held, at)
        types.append(one)
    if at != head:
        raise ValueError("not a row")
    return types, head


def _letter(type_: int) -> str:
    if type_ < 12:
        return "-" if type_ == 0 else "?" if type_ in (7, 10, 11) else "i"
    return "t" if type_ % 2 else "b"


def _length(type_: int) -> int:
    return _SIZES[type_] if type_ < 10 else max(0, type_ - 12) // 2


def _value(type_: int, data: bytes) -> Any:
    if len(data) != _length(type_):
        raise ValueError("a row is cut off")
    if type_ in (0, 8, 9):
        return (None, 0, 1)[max(0, type_ - 7)]
    if type_ < 12:
        return int.from_bytes(data, signed=True)
    return data.decode() if type_ % 2 else data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at + n + 1
