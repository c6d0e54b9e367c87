"""serve: tensors of the Open Inference Protocol: their types, their bytes, and columns of values from them.

Source: the Open Inference Protocol, version 2, and its extension for binary tensor data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.record.errors import Refused

FLOATS = ("FP64", "FP32", "FP16", "BF16")
_INTS = {f"{sign}INT{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64)}
_WIDTHS = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8} | {
    n: bits // 8 for n, (_, bits) in _INTS.items()
}
_NUMPY = {"BOOL": "?", "FP16": "<f2", "BF16": "<u2", "FP32": "<f4", "FP64": "<f8"} | {
    name: f"<{'u' if sign else 'i'}{bits // 8}" for name, (sign, bits) in _INTS.items()
}


class BadRequest(Refused):
    """The request does not follow the Open Inference Protocol."""

    code = "malformed"
    status = 400


class Tensor(msgspec.Struct, frozen=True):
    """An input. `data` is flat or nested as `shape` says; UNSET where it comes as bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


def values(tensor: Tensor, binary: bytes | None = None) -> list[Any]:
    """A tensor's values, flat, checked against its shape and datatype. `binary`: its bytes, where it has such.
    Raises BadRequest for what is no tensor, Refused naming the row for a value of another type or range."""
    name = tensor.name[:64]
    if any(n < 0 for n in tensor.shape) or not 1 <= len(tensor.shape) <= 2:
        raise BadRequest(
            "An input has one value a row, or one a feature: its shape is [n], [n, 1] or [n, features].",
            where=name,
        )
    wanted = int(np.prod(tensor.shape, dtype=object))
    if tensor.datatype not in _WIDTHS and tensor.datatype != "BYTES":
        raise BadRequest(
            "This datatype is not in the protocol.", hint="Use FP64, INT64, BOOL or BYTES, for example."
        )
    if binary is not None:
        found = _unpacked(tensor, binary)
    elif tensor.data is msgspec.UNSET:
        raise BadRequest("The input has neither data nor binary data.", where=name)
    else:
        found = _flat(tensor.data, tensor.shape)
    if len(found) != wanted:
        raise BadRequest(f"The shape says {wanted} values, the data has {len(found)}.", where=name)
    width = tensor.shape[1] if len(tensor.shape) == 2 and tensor.shape[1] else 1
    if binary is None:
        _check(tensor, found, width)
    if tensor.datatype in FLOATS:
        return [None if value is None else float(value) for value in found]
    return found


def _flat(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    if len(shape) == 2 and any(type(one) is list for one in data):
        return [value for row in data for value in (row if type(row) is list else [row])]
    return list(data)


def _check(tensor: Tensor, found: Sequence[Any], width: int) -> None:
    check = _test(tensor.datatype)
    for i, value in enumerate(found):
        if value is not None and not check(value):
            where = f"{tensor.name[:64]}, row {i // width}"
            raise Refused(f"A value is no {tensor.datatype}.", code="wrong_type", where=where)


def _test(datatype: str) -> Callable[[Any], bool]:
    if datatype in FLOATS:
        return lambda value: type(value) in (int, float)
    if datatype == "BOOL":
        return lambda value: type(value) is bool
    if datatype == "BYTES":
        return lambda value: type(value) is str
    sign, bits = _INTS[datatype]
    low, high = (0, 2**bits) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return lambda value: type(value) is int and low <= value < high


def _unpacked(tensor: Tensor, binary: bytes) -> list[Any]:
    if tensor.datatype == "BYTES":
        return _texts(tensor.name[:64], binary)
    if len(binary) % _WIDTHS[tensor.datatype]:
        raise BadRequest(f"The binary data is no whole number of {tensor.datatype}.", where=tensor.name[:64])
    found = np.frombuffer(binary, _NUMPY[tensor.datatype])
    if tensor.datatype == "BF16":
        found = (found.astype("<u4") << 16).view("<f4")
    listed: list[Any] = found.tolist()
    return listed


def _texts(name: str, binary: bytes) -> list[str]:
    """Texts, each behind its length as four bytes."""
    found, at = [], 0
    try:
        while at < len(binary):
            (length,) = struct.unpack_from("<I", binary, at)
            at += 4 + length
            if at > len(binary):
                raise BadRequest("The binary data is cut off.", where=name)
            found.append(binary[at - length : at].decode())
    except (struct.error, UnicodeDecodeError):
        raise BadRequest("The binary data is no list of texts.", where=name) from None
    return found


def packed(datatype: str, data: Sequence[Any]) -> bytes:
    """Values as the bytes of a tensor: a number that is missing is NaN, or 0 where there is none."""
    if datatype == "BYTES":
        texts = [str(one).encode() for one in data]
        return b"".join(struct.pack("<I", len(one)) + one for one in texts)
    empty = float("nan") if datatype in FLOATS else 0
    return np.array([empty if one is None else one for one in data], _NUMPY[datatype]).tobytes()
