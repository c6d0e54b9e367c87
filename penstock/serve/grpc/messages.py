"""serve: the messages of `inference.GRPCInferenceService`, read from bytes and written as bytes, field by field.

Source: protobuf's encoding, and the Open Inference Protocol, version 2, gRPC. A field is known by its tag: a number,
and how it is written. What a message has beyond what is known here is passed over, as protobuf's own readers do.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from penstock.serve.hot import Tensor
from penstock.serve.infer import Column
from penstock.serve.tensors import BadRequest, packed

MOST_FIELDS = 1_000_000
"""Fields of a message and of those within it: some take two bytes, and each costs its time. A message within counts for
ten."""
_WHOLE, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""How a field is written: as a whole number, eight bytes, a length and bytes, four bytes."""


def tag(number: int, kind: int = _BYTES) -> int:
    """What a field begins with."""
    return number << 3 | kind


_ONE, _TWO, _THREE, _FOURTH, _FIVE, _SIX, _SEVEN = (tag(number) for number in range(1, 8))
_SHAPE_ITEM = tag(3, _WHOLE)
_FIELDS = {
    "BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5,
    "FP32": 6, "FP64": 7, "BYTES": 8,
}  # fmt: skip
"""The contents of a tensor, by its datatype."""
_FLOATS = {tag(6): ("f", 4), tag(6, _FOUR): ("f", 4), tag(7): ("d", 8), tag(7, _EIGHT): ("d", 8)}
_NOT_LAST = bytes(range(128, 256))
"""The bytes of whole numbers that others follow."""
_SIGNS: dict[int, Callable[[int], Any]] = {
    1: bool,
    2: lambda n: ((n & 0xFFFFFFFF) ^ 1 << 31) - (1 << 31),
    3: lambda n: (n ^ 1 << 63) - (1 << 63),
    4: lambda n: n & 0xFFFFFFFF,
    5: lambda n: n,
}
"""What a whole number says, by the contents that it stands in."""


_ALIKE: dict[bytes, tuple[str, list[int], str, struct.Struct]] = {}
"""Inputs by the bytes before their numbers, which say all else: they are the same in every call again."""
_SIZES: dict[int, int] = {}
"""By the length of an input, how much of it were its numbers."""
_MOST_ALIKE, _LONGEST = 4096, 128


class Infer(msgspec.Struct, gc=False):
    """A ModelInferRequest. `raw` holds the bytes of each input, where they do not stand in it."""

    model: str = ""
    version: str = ""
    id: str = ""
    timeout_us: int = 0
    inputs: list[Tensor] = []
    outputs: list[str] = []
    raw: list[bytes] = []


class Reader:
    """Reads a message's bytes. Raises BadRequest, or IndexError where they are cut off."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, MOST_FIELDS
        self.last = 0  # where the last decimal numbers began

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The tags of fields, and where the value of each begins and ends; of a whole number, itself and its end."""
        data, n = self.data, 10
        while at < end:
            this = data[at]
            at += 1
            if this > 127:
                this, at = self.number(at - 1)
            kind = this & 7
            if kind in (_BYTES, _WHOLE):
                size = data[at]
                at += 1
                if size > 127:
                    size, at = self.number(at - 1)
            elif kind in (_EIGHT, _FOUR):
                size = 8 if kind == _EIGHT else 4
            else:
                raise _malformed()
            if kind == _WHOLE:
                yield this, size, at
            elif at + size > end:
                raise _malformed()
            else:
                yield this, at, at + size
                at += size
            n += 1
            if n > self.left:
                raise BadRequest("The message has too many parts.", hint="Send fewer rows at once.")
        self.left -= n
        if at != end:
            raise _malformed()

    def number(self, at: int) -> tuple[int, int]:
        """A whole number of up to ten bytes, and where it ends."""
        found = 0
        for shift in range(0, 70, 7):
            byte = self.data[at]
            at += 1
            found |= (byte & 127) << shift
            if byte < 128:
                return found & 0xFFFFFFFFFFFFFFFF, at
        raise _malformed()

    def numbers(self, at: int, end: int) -> list[int]:
        """Whole numbers, one behind the other."""
        self.left -= len(self.data[at:end].translate(None, _NOT_LAST))
        if self.left < 0:
            raise BadRequest("The message has too many parts.", hint="Send fewer rows at once.")
        found = []
        while at < end:
            one, at = self.number(at)
            found.append(one)
        if at != end:
            raise _malformed()
        return found

    def text(self, at: int, end: int) -> str:
        """A text."""
        try:
            return self.data[at:end].decode()
        except UnicodeDecodeError:
            raise _malformed() from None

    def named(self) -> tuple[str, str]:
        """The first two fields of a request that says little else: mostly a model and a version."""
        first = second = ""
        for this, at, end in self.fields(0, len(self.data)):
            if this == _ONE:
                first = self.text(at, end)
            elif this == _TWO:
                second = self.text(at, end)
        return first, second

    def infer(self) -> Infer:
        """A ModelInferRequest."""
        found = Infer(inputs=[], outputs=[], raw=[])
        for this, at, end in self.fields(0, len(self.data)):
            if this == _FIVE:
                found.inputs.append(self.input(at, end))
            elif this == _SEVEN:
                found.raw.append(self.data[at:end])
            elif this == _ONE:
                found.model = self.text(at, end)
            elif this == _TWO:
                found.version = self.text(at, end)
            elif this == _THREE:
                found.id = self.text(at, end)
            elif this == _FOURTH:
                found.timeout_us = self.timeout(at, end) or found.timeout_us
            elif this == _SIX:
                names = [self.text(x, y) for one, x, y in self.fields(at, end) if one == _ONE]
                found.outputs.append(names[-1] if names else "")
        return found

    def input(self, at: int, end: int) -> Tensor:
        """An InferInputTensor."""
        known = _ALIKE.get(self.data[at : end - _SIZES.get(end - at, end)])
        if known is not None:
            name, shape, datatype, numbers = known
            return Tensor(name, shape, datatype, list(numbers.unpack_from(self.data, end - numbers.size)))
        found, contents = Tensor("", [], "", []), dict[int, list[Any]]()
        for this, x, y in self.fields(at, end):
            if this == _ONE:
                found.name = self.text(x, y)
            elif this == _TWO:
                found.datatype = self.text(x, y)
            elif this == _THREE:
                found.shape += map(_SIGNS[3], self.numbers(x, y))
            elif this == _SHAPE_ITEM:
                found.shape.append(_SIGNS[3](x))
            elif this == _FIVE:
                self.contents(x, y, contents)
        found.data = contents.get(_FIELDS.get(found.datatype, 0), [])
        if found.datatype == "BYTES":
            found.data = _texts(found.name, found.data)
        size = 8 * len(found.data)
        if 0 < size == end - self.last and contents.keys() == {7} and end - at - size <= _LONGEST:
            if len(_ALIKE) >= _MOST_ALIKE:
                _ALIKE.clear()
                _SIZES.clear()
            numbers = struct.Struct(f"<{len(found.data)}d")
            _ALIKE[self.data[at : end - size]] = found.name, found.shape, found.datatype, numbers
            _SIZES[end - at] = size
        return found

    def contents(self, at: int, end: int, found: dict[int, list[Any]]) -> None:
        """InferTensorContents, by the numbers of their fields."""
        for this, x, y in self.fields(at, end):
            number = this >> 3
            values: Iterable[Any] = ()
            if this in _FLOATS:
                letter, width = _FLOATS[this]
                n, odd = divmod(y - x, width)
                if odd:
                    raise _malformed()
                self.last = x
                values = struct.unpack_from(f"<{n}{letter}", self.data, x)
            elif number in _SIGNS and this & 7 in (_WHOLE, _BYTES):
                values = map(_SIGNS[number], self.numbers(x, y) if this & 7 else (x,))
            elif this == tag(8):
                values = (self.data[x:y],)
            else:
                continue
            found.setdefault(number, []).extend(values)

    def timeout(self, at: int, end: int) -> int:
        """The microseconds of a parameter, where it is named `timeout`."""
        name, us = "", 0
        for this, x, y in self.fields(at, end):
            if this == _ONE:
                name = self.text(x, y)
            elif this == _TWO:
                us = next((value for one, value, _ in self.fields(x, y) if one == tag(2, _WHOLE)), 0)
        return us if name == "timeout" and 0 < us < 1 << 63 else 0


def read(data: bytes) -> Infer:
    """A ModelInferRequest; raises BadRequest where the bytes are none."""
    try:
        return Reader(data).infer()
    except IndexError:
        raise _malformed() from None


def _texts(name: str, found: Sequence[bytes]) -> list[str]:
    try:
        return [value.decode() for value in found]
    except UnicodeDecodeError:
        raise BadRequest("A value is no text.", where=name[:64]) from None


def named(data: bytes) -> tuple[str, str]:
    """The first two fields of a request; raises BadRequest where the bytes are none."""
    try:
        return Reader(data).named()
    except IndexError:
        raise _malformed() from None


def _malformed() -> BadRequest:
    return BadRequest("The message is not of the protocol.")


# Writing.


def number(n: int) -> bytes:
    """A whole number."""
    if 0 <= n < 128:
        return _BYTE[n]
    n &= 0xFFFFFFFFFFFFFFFF
    made = []
    while n > 127:
        made.append(n & 127 | 128)
        n >>= 7
    return bytes([*made, n])


_BYTE = [bytes([n]) for n in range(128)]


def field(number_: int, data: bytes | str) -> bytes:
    """A field of bytes, of a text, or of a message."""
    data = data.encode() if isinstance(data, str) else data
    size = len(data)
    return _BYTE[number_ << 3 | _BYTES] + (_BYTE[size] if size < 128 else number(size)) + data


def flag(value: bool) -> bytes:
    """The first field of an answer that is yes or no."""
    return b"\x08\x01" if value else b""


def answer(head: Sequence[str], parameters: bytes, columns: Sequence[Column], *, raw: bool) -> bytes:
    """A ModelInferResponse. `head`: the model, its version, the caller's id."""
    model, version, id = head
    parts = [field(1, model), field(2, version), field(3, id) if id else b"", parameters]
    behind = []
    for name, datatype, data in columns:
        known = _known(name, datatype, len(data))
        if raw:
            behind.append(field(6, packed(datatype, data)))
            parts.append(field(5, known))
        elif len(known) + len(inner := _contents(datatype, data)) < 120:
            parts.append(b"\x2a%c%b\x2a%c%b" % (len(known) + 2 + len(inner), known, len(inner), inner))
        else:
            parts.append(field(5, known + field(5, inner)))
    return b"".join([*parts, *behind])


@functools.lru_cache(1000)
def _known(name: str, datatype: str, n: int) -> bytes:
    """What of a tensor is not its contents."""
    return field(1, name) + field(2, datatype) + field(3, number(n))


def _contents(datatype: str, data: Sequence[Any]) -> bytes:
    """Values as InferTensorContents: a number that is missing is NaN, or 0 where there is none."""
    if datatype == "BYTES":
        return b"".join([field(8, one) for one in data])
    if datatype == "FP64":
        known = data if None not in data else [math.nan if one is None else one for one in data]
        return field(7, struct.pack(f"<{len(data)}d", *known))
    return field(_FIELDS[datatype], b"".join([number(one or 0) for one in data]))


def parameter(name: str, text: str) -> bytes:
    """A parameter of an answer."""
    return field(4, field(1, name) + field(2, field(3, text)))


def metadata(told: Mapping[str, Any]) -> bytes:
    """A ModelMetadataResponse."""
    parts = [field(1, told["name"]), *(field(2, one) for one in told["versions"]), field(3, told["platform"])]
    for place, kind in ((4, "inputs"), (5, "outputs")):
        for one in told[kind]:
            (n,) = one["shape"]
            parts.append(field(place, _known(one["name"], one["datatype"], n)))
    return b"".join(parts)
