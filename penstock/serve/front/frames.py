"""serve: HTTP/2's frames, and the headers of gRPC's answers: they are always the same bytes, and need no table.

Source: RFC 9113, RFC 7541, and gRPC's protocol over them.
"""

from __future__ import annotations

import re
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 1, 1, 4, 8, 32
NO_ERROR, PROTOCOL, FLOW, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0, 1, 3, 6, 7, 8, 9, 11
STREAMS, WINDOW, FRAME, HEADER_LIST = 3, 4, 5, 6
"""The numbers of settings."""

FRAME_BYTES = 16 << 10
"""The longest frame that we take; we send none that is longer, either."""
HEAD_BYTES = 16 << 10
"""What the headers of a call may take, packed and unpacked."""
START = 65_535
"""The window that both sides begin with."""
MOST_WINDOW = 2**31 - 1
FRAME_HEAD = struct.Struct(">BHBBI")
_WHOLE = struct.Struct(">BHBBIBI")
_STATUSES = {
    400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 9, 413: 8, 415: 3, 422: 3, 429: 8, 431: 8, 501: 12, 503: 14, 504: 4,
    507: 8,
}  # fmt: skip
"""gRPC's statuses for ours; what is not here is 13, an error of the server's."""
_ODD = re.compile(rb"[^ -$&-~]")
"""What does not stand in a message as it is."""


class Ended(Exception):
    """What came ends the connection, for this reason of HTTP/2's."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """A frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that no table knows. Both are short, or the value is cut."""
    return b"\x00" + bytes([len(name)]) + name + _length(value[:16_000]) + value[:16_000]


def _length(value: bytes) -> bytes:
    n = len(value)
    if n < 127:
        return bytes([n])
    n, made = n - 127, [127]
    while n > 127:
        made.append(n & 127 | 128)
        n >>= 7
    return bytes([*made, n])


_BEGIN = b"\x88" + literal(b"content-type", b"application/grpc")
_END = literal(b"grpc-status", b"0")
_BEGINS = FRAME_HEAD.pack(0, len(_BEGIN), HEADERS, END_HEADERS, 0)[:5]
_ENDS = FRAME_HEAD.pack(0, len(_END), HEADERS, END_HEADERS | END_STREAM, 0)[:5]


def refusal(status: int, text: bytes) -> bytes:
    """The headers of an answer that is nothing but an error."""
    begin = literal(b":status", b"415") + _BEGIN[1:] if status == 415 else _BEGIN
    code = b"%d" % _STATUSES.get(status, 13)
    message = _ODD.sub(lambda one: b"%%%02X" % ord(one[0]), text[:2000])
    return begin + literal(b"grpc-status", code) + literal(b"grpc-message", message)


def answered(stream: int, body: bytes) -> bytes:
    """An answer in one piece: how it begins, its message in one frame, how it ends."""
    id, size = stream.to_bytes(4), len(body)
    data = _WHOLE.pack(0, 5 + size, DATA, 0, stream, 0, size)
    return b"".join((_BEGINS, id, _BEGIN, data, body, _ENDS, id, _END))


def begins(stream: int) -> bytes:
    """How an answer begins."""
    return _BEGINS + stream.to_bytes(4) + _BEGIN


def ends(stream: int) -> bytes:
    """How it ends."""
    return _ENDS + stream.to_bytes(4) + _END


def unpadded(payload: bytes) -> bytes:
    """A payload without what only makes it longer."""
    if not payload or payload[0] >= len(payload):
        raise Ended(PROTOCOL)
    return payload[1 : len(payload) - payload[0]]
