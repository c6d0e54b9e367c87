"""serve: what a call carries for its records: who traces it (W3C trace context), and CloudEvents' attributes.

They become the records' headers: `traceparent` also those of the predictions that the call caused. What is not as the
specifications say is left out: it is a note of the sender's, and no reason to refuse what he sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from penstock.record.errors import Refused
from penstock.record.record import NO_HEADERS

MOST, LONGEST = 16, 256
"""Attributes of an event, and characters of one."""
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NAME = re.compile(r"[a-z0-9]{1,20}")
CARRIED: ContextVar[Mapping[str, str]] = ContextVar("carried", default=NO_HEADERS)
"""Of the call that is being served."""


def carried(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """What HTTP's headers carry."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name == b"traceparent" and _TRACE.fullmatch(text := value.decode("latin-1")):
            found["traceparent"] = text
        elif name.startswith(b"ce-"):
            found |= attribute(name[3:].decode("latin-1"), value.decode("latin-1"), len(found))
    return found or NO_HEADERS


def attribute(name: str, value: Any, before: int) -> dict[str, str]:
    """One attribute of an event, as a record's header; nothing where it is none, or one too many."""
    text = ("false", "true")[value] if type(value) is bool else str(value)
    good = _NAME.fullmatch(name) and len(text) <= LONGEST and text.isprintable() and before < MOST
    return {f"ce-{name}": text} if good else {}


def structured(event: Any) -> tuple[Any, dict[str, str]]:
    """The data and the attributes of an event in CloudEvents' structured form; raises Refused where it is none."""
    if type(event) is not dict or not {"specversion", "id", "source", "type", "data"} <= event.keys():
        raise Refused(
            "A CloudEvent has specversion, id, source, type and data.",
            code="cloudevent",
            hint="Send data as JSON.",
        )
    found: dict[str, str] = {}
    for name, value in event.items():
        if name == "traceparent" and _TRACE.fullmatch(str(value)):
            found["traceparent"] = value
        elif name not in ("data", "data_base64") and type(value) in (str, int, bool):
            found |= attribute(name, value, len(found))
    return event["data"], found
