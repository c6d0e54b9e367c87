"""client: HTTP/1.1 without a connection: a request's bytes, and the reply in the bytes that come. By h11."""

from __future__ import annotations

from urllib.parse import urlsplit

import h11
import msgspec

from penstock.record.errors import Refused

REPLY_BYTES = 64 << 20
"""The largest reply that is taken."""


class Request(msgspec.Struct, frozen=True):
    """What is asked. `safe`: it may be sent again, even where the server may have done it already."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    safe: bool = False


class Reply(msgspec.Struct, frozen=True):
    """A whole reply; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Lost(Exception):
    """There is no reply. `sent`: the server may have the request; `late`: there was no more time for it."""

    def __init__(self, *, sent: bool, late: bool = False) -> None:
        self.sent, self.late = sent, late
        super().__init__("late" if late else "lost")


class Address(msgspec.Struct, frozen=True):
    """Where a server is; `path` goes before every path that is asked for."""

    host: str
    port: int
    tls: bool
    path: str = ""

    @property
    def name(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def address(url: str) -> Address:
    """The address in a URL; raises Refused where it is none of HTTP's."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username:
        raise Refused("A server's address is http://HOST:PORT, or https.", code="url")
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


class Exchange:
    """The protocol on one connection: one request after the other."""

    def __init__(self, at: Address) -> None:
        self.at = at
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 << 10)
        self._head: h11.Response | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def ask(self, request: Request, *headers: tuple[str, str]) -> bytes:
        """The bytes to send."""
        lines = [("host", self.at.name), *request.headers, *headers]
        if request.body or request.method not in ("GET", "DELETE"):
            lines.append(("content-length", str(len(request.body))))
        send, path = self._protocol.send, self.at.path + request.path
        try:
            head = send(h11.Request(method=request.method, target=path, headers=lines))
        except h11.LocalProtocolError:
            raise Refused("A header or a path has letters that HTTP cannot carry.", code="url") from None
        return (head or b"") + (send(h11.Data(request.body)) or b"") + (send(h11.EndOfMessage()) or b"")

    def take(self, data: bytes) -> Reply | None:
        """What came (nothing: the other side has closed); the reply, once it is whole. Raises Lost."""
        try:
            self._protocol.receive_data(data)
            while True:
                event = self._protocol.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Response):
                    self._head = event
                elif isinstance(event, h11.Data):
                    self._size += len(event.data)
                    if self._size > REPLY_BYTES:
                        raise Lost(sent=True)
                    self._parts.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return self._whole()
                elif isinstance(event, h11.ConnectionClosed):
                    raise Lost(sent=True)
        except h11.RemoteProtocolError:
            raise Lost(sent=True) from None

    def _whole(self) -> Reply:
        assert self._head is not None
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in self._head.headers}
        reply = Reply(self._head.status_code, headers, b"".join(self._parts))
        self._head, self._parts, self._size = None, [], 0
        if self.reusable:
            self._protocol.start_next_cycle()
        return reply

    @property
    def reusable(self) -> bool:
        """Whether both sides are through with the request and keep the connection."""
        done = {self._protocol.our_state, self._protocol.their_state}
        return done in ({h11.DONE}, {h11.IDLE})
