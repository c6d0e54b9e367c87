"""serve: who may ask. Keys are kept as digests only; without keys the doors open on loopback alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress

import msgspec

from penstock.record.errors import Refused


class Unauthorised(Refused):
    """This needs a key: send `Authorization: Bearer KEY`."""

    code = "unauthorised"
    status = 401


class Keys(msgspec.Struct, frozen=True):
    """The SHA-256 digests of keys, by the names of who holds them."""

    digests: dict[str, str]

    def name_of(self, authorization: str) -> str | None:
        """Who holds the key of an Authorization header: Bearer, or Basic with the key as the password."""
        digest = hashlib.sha256(_key_in(authorization)).hexdigest()
        found = None
        for name, known in self.digests.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _key_in(authorization: str) -> bytes:
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip().encode()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def new_key(randomness: bytes) -> str:
    """A key from at least 24 random bytes, as text."""
    if len(randomness) < 24:
        raise ValueError("a key needs 24 random bytes")
    return "penstock_" + base64.urlsafe_b64encode(randomness).decode().rstrip("=")


def key_line(name: str, key: str) -> str:
    """The line of a key file: the name and the key's digest, never the key."""
    if not name or not name.isprintable() or any(c.isspace() for c in name):
        raise Refused("A key's name is one word.", code="key_name")
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


def read_keys(text: str) -> Keys:
    """The keys of a key file; raises Refused for a line that is none."""
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or line.startswith("#"):
            continue
        if len(parts) != 2 or len(parts[1]) != 64 or not set(parts[1]) <= set("0123456789abcdef"):
            raise Refused(
                "A line of the key file is not a name and a digest.",
                code="key_file", where=f"line {number}", hint="Make keys with `penstock key NAME --key-file FILE`.",
            )  # fmt: skip
        digests[parts[0]] = parts[1]
    if not digests:
        raise Refused(
            "The key file has no keys.",
            code="key_file",
            hint="Make one with `penstock key NAME --key-file FILE`.",
        )
    return Keys(digests)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_bind(host: str, keys: Keys | None) -> None:
    """Raise Refused for an address that others can reach while there are no keys."""
    if keys is None and not is_loopback(host):
        raise Refused(
            f"{host} can be reached by others, and no key is set.",
            code="needs_key", hint="Make one with `penstock key NAME --key-file FILE`, then give --key-file FILE.",
        )  # fmt: skip
