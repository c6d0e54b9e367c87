"""log: what a broker's port speaks, asked without a client, for who came with the wrong words.

A client that speaks plainly to a port of TLS, or the other way round, is hung up on without a reason; so
is one whose broker ends. Only a port that answers says which it is. No name or password is sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

WAIT_S = 1.0
_PORT = 9092
_ASK = struct.pack(">ihhih", 10, 18, 0, 7, -1)
"""Kafka's question which versions a broker has: 10 bytes, kind 18, form 0, number 7, no client's name."""
_NUMBER = slice(4, 8)  # of an answer, after its length


def spoken(brokers: str) -> str:
    """ "plain" or "tls", as the first broker that answers does; empty where none does."""
    for broker in brokers.split(","):
        at = _address(broker.strip())
        with contextlib.suppress(OSError, ValueError):  # ValueError: a port beyond all ports
            if _plain(at):
                return "plain"
            if _tls(at):
                return "tls"
    return ""


def _address(broker: str) -> tuple[str, int]:
    host, _, port = broker.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else (broker.strip("[]"), _PORT)


def _plain(at: tuple[str, int]) -> bool:
    """Raises OSError when nobody takes the connection."""
    with socket.create_connection(at, WAIT_S) as line, contextlib.suppress(OSError):
        line.sendall(_ASK)
        return line.recv(_NUMBER.stop, socket.MSG_WAITALL)[_NUMBER] == struct.pack(">i", 7)
    return False


def _tls(at: tuple[str, int]) -> bool:
    """Whether there is a handshake; whose certificate it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(at, WAIT_S) as line,
        contextlib.suppress(OSError),
        context.wrap_socket(line, server_hostname=at[0]),
    ):
        return True
    return False
