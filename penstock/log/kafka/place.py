"""log: where a log on Kafka is, and what a connection to it needs."""

from __future__ import annotations

import re

import msgspec

from penstock.record.errors import Refused

PARTITIONS = 4
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(r"password|passphrase|secret|key\.pem|oauthbearer\.config")
_HINT = "One librdkafka setting a line, such as security.protocol=SASL_SSL."


class Place(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Where a log is on Kafka: brokers, the prefix of its topics, librdkafka settings (TLS, SASL)."""

    brokers: str
    prefix: str = "penstock"
    settings: dict[str, str] = {}

    def __repr__(self) -> str:
        """The address: settings may hold a password."""
        return f"Place(kafka://{self.brokers}/{self.prefix}, {len(self.settings)} settings)"

    def secrets(self) -> list[str]:
        """The names of the settings that nobody else may know."""
        return sorted(name for name in self.settings if _SECRET.search(name))

    def topic(self, name: str) -> str:
        """The Kafka topic of one of ours."""
        return f"{self.prefix}.{name}"

    @property
    def journal(self) -> str:
        """The topic of the entries. Without a dot: no topic of ours is called so, whatever its name."""
        return f"{self.prefix}-journal"

    @property
    def states(self) -> str:
        """The compacted topic of the stages' states."""
        return f"{self.prefix}-states"


def place(url: str, settings: str = "") -> Place:
    """A place from `kafka://host:port[,host:port][/prefix]` and the text of a settings file (key=value
    lines, librdkafka's names); raises Refused for anything else."""
    scheme, _, rest = url.partition("://")
    brokers, _, prefix = rest.partition("/")
    prefix = prefix or "penstock"
    if scheme != "kafka" or not brokers or "@" in brokers or not _PREFIX.fullmatch(prefix):
        raise Refused(
            "A log on Kafka is named kafka://HOST:PORT[,HOST:PORT][/PREFIX].", code="log_url",
            hint="A prefix is made of letters, digits, _ and -; names and passwords belong into the settings file.",
        )  # fmt: skip
    found = {}
    for number, line in enumerate(settings.splitlines(), 1):
        key, equals, value = (part.strip() for part in line.strip().partition("="))
        if not line.strip() or line.strip().startswith("#"):
            continue
        if not equals or not key:
            raise Refused(
                f"Line {number} of the log's settings is not KEY=VALUE.", code="log_settings", hint=_HINT
            )
        found[key] = value
    return Place(brokers, prefix, found)
