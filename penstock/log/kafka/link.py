"""log: the brokers as this home meets them: asked patiently, their troubles in our words, topics made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from penstock.log.kafka.place import Place
from penstock.log.kafka.probe import spoken
from penstock.record.errors import PenstockError, Refused, Unavailable

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a write waits for the brokers before it says that it does not know."""
ATTEMPT_S = 5.0
ENTRY_BYTES = 8 << 20
MESSAGE_BYTES = ENTRY_BYTES + (1 << 20)
COPIES = 3
_FOR_EVER = str(2**63 - 1)
_KEPT = {"retention.ms": "-1", "retention.bytes": "-1"}
_LOGIN = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
)
_RIGHTS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


class Link:
    """What every client of one handle shares."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.spread: dict[str, int] = {}  # partitions by Kafka topic
        self.trouble: KafkaError | None = None
        self._admin: AdminClient | None = None

    def settings(self, **more: Any) -> dict[str, Any]:
        """A client's settings: the place's own, and `more`, which goes first."""
        ours = {"log_level": 0, "error_cb": self.note, "client.id": self.place.prefix}
        return {**ours, **self.place.settings, "bootstrap.servers": self.place.brokers, **more}

    def note(self, error: KafkaError) -> None:
        """Remember what troubles a client, for whoever waits."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says less than the trouble before it
            self.trouble = error

    def client(self, kind: Callable[[dict[str, Any]], T], settings: dict[str, Any]) -> T:
        """A client; raises Refused, and never says a value, when a setting is not one."""
        try:
            return kind(settings)
        except (
            KafkaException,
            TypeError,
            ValueError,
        ) as error:  # the latter two: a text where Python wants none
            said = str(error)
            named = max((key for key in self.place.settings if key in said), key=len, default="")
            raise Refused(
                "The log's settings cannot be used.", code="log_settings", where=named,
                hint="Take the names and values from librdkafka's configuration page.",
            ) from None  # fmt: skip

    def admin(self) -> AdminClient:
        """The client that asks and makes."""
        if self._admin is None:
            self._admin = self.client(AdminClient, self.settings())
        return self._admin

    def ask(self, ask: Callable[[], T], wait_s: float = PATIENCE_S) -> T:
        """What brokers answer, asked again while they move leaders or are away; raises Unavailable, or
        Refused when they do not know us."""
        deadline = time.monotonic() + wait_s
        refusals = 0
        self.trouble = None
        while True:
            try:
                return ask()
            except KafkaException as error:
                self.admin().poll(0)
                asked: Any = error.args[0]
                self.trouble = self.trouble or asked
                refused = self.refused()
                refusals += refused is not None
                if refused is not None and refusals > 1:  # a cut connection may look like one, once
                    raise refused from None
                if refused is None and asked.code() < 0 and (misspoken := self._misspoken()) is not None:
                    raise misspoken from None
                if time.monotonic() > deadline:
                    raise self.away() from None
                self.trouble = None
                time.sleep(0.05)

    def refused(self) -> PenstockError | None:
        """The refusal that the newest trouble means, if it means one."""
        return refusal(self.trouble)

    def _misspoken(self) -> Refused | None:
        """The refusal of settings that speak another way than the brokers' port, which answers."""
        protocol = self.place.settings.get("security.protocol", "").lower()
        wanted, heard = "tls" if protocol.endswith("ssl") else "plain", spoken(self.place.brokers)
        if heard in ("", wanted):
            return None
        said = "speak TLS here, but the settings do not" if heard == "tls" else "do not speak TLS here"
        return Refused(
            f"The brokers {said}.", code="log_tls", where=self.place.brokers,
            hint="Set security.protocol in the settings file to what they speak, or name the port that speaks it.",
        )  # fmt: skip

    def away(self) -> Unavailable:
        """The error of brokers that do not answer, or not to us."""
        refused = self.refused()
        if refused is not None:
            return Unavailable(refused.what, code=refused.code, where=refused.where, hint=refused.hint)
        name = self.trouble.name() if self.trouble else "no answer"
        return Unavailable(
            f"The brokers cannot be used: {name}.", code="log_away", where=self.place.brokers,
            hint="Do they run, is this their address, and do security.protocol and sasl.mechanism fit it?",
        )  # fmt: skip

    def make(self, topics: dict[str, int]) -> None:
        """Make the Kafka topics that are missing, and learn how many partitions each has."""
        admin = self.admin()
        known = self.ask(lambda: admin.list_topics(timeout=2.0))
        copies = min(COPIES, len(known.brokers))
        missing = [
            NewTopic(name, n, copies, config=self._config(name, copies))
            for name, n in topics.items()
            if name not in known.topics
        ]
        for name, made in (admin.create_topics(missing) if missing else {}).items():
            try:
                made.result(PATIENCE_S)
            except KafkaException as error:  # mostly: another process was faster; the look below tells
                self._made(name, error.args[0])
        deadline = time.monotonic() + PATIENCE_S
        while not all(name in self.spread for name in topics):
            for name, found in self.ask(lambda: admin.list_topics(timeout=2.0)).topics.items():
                if found.partitions and found.error is None:
                    self.spread[name] = len(found.partitions)
            if time.monotonic() > deadline:
                raise Unavailable("The brokers did not make the log's topics.", code="log_away")

    def _made(self, name: str, error: KafkaError) -> None:
        refused = refusal(error)
        if refused is not None:
            raise refused
        if error.code() in (
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.INVALID_CONFIG,
            KafkaError.POLICY_VIOLATION,
        ):
            raise Refused(
                f"The brokers do not make this topic: {error.name()}.", code="log_topic", where=name,
                hint="To Kafka a name with _ in place of . is the same name.",
            )  # fmt: skip

    def _config(self, name: str, copies: int) -> dict[str, str]:
        config = {
            **_KEPT,
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": _FOR_EVER,
            "message.timestamp.after.max.ms": _FOR_EVER,  # event time may lie ahead of the broker's clock
            "max.message.bytes": str(MESSAGE_BYTES),
            "min.insync.replicas": str(max(1, copies - 1)),
            "unclean.leader.election.enable": "false",
        }
        return {**config, "cleanup.policy": "compact"} if name == self.place.states else config

    def check(self) -> None:
        """Raise Refused for a journal, made by somebody else, that would forget."""
        resource = ConfigResource("topic", self.place.journal)
        with contextlib.suppress(KafkaException):  # who may not look cannot check
            found = self.admin().describe_configs([resource])[resource].result(ATTEMPT_S)
            wanted = {**_KEPT, "cleanup.policy": "delete", "unclean.leader.election.enable": "false"}
            for key, value in wanted.items():
                if key in found and found[key].value != value:
                    raise Refused(
                        f"The journal's {key} is {found[key].value}; a log needs {value}.",
                        code="log_topic", where=self.place.journal,
                    )  # fmt: skip

    def reach(self, topic: str, part: int) -> tuple[int, int]:
        """The offsets that a partition begins and ends at."""
        settings = self.settings(**{"group.id": f"{self.place.prefix}-look", "enable.auto.commit": False})
        consumer: Consumer = self.client(Consumer, settings)
        try:
            at = TopicPartition(topic, part)
            low, high = self.ask(lambda: consumer.get_watermark_offsets(at, timeout=ATTEMPT_S))
        finally:
            consumer.close()
        return low, high


def refusal(error: KafkaError | None) -> PenstockError | None:
    """The refusal that an error of the brokers means, if it means one."""
    code = error.code() if error is not None else None
    if code in _LOGIN:
        return Refused(
            "The brokers do not accept our name or password.", code="log_denied",
            hint="Mend sasl.mechanism, sasl.username and sasl.password in the settings file.",
        )  # fmt: skip
    hung_up = error is not None and "SSL alert" in error.str()  # by the brokers, who say why
    if code == KafkaError._SSL or hung_up:
        return Refused(
            "No secure connection: the brokers' certificate is not trusted, or they do not take ours.",
            code="log_tls", hint="Mend ssl.ca.location and its like in the settings file.",
        )  # fmt: skip
    if code in _RIGHTS:
        return Refused(
            "The brokers do not let us use the log's topics.", code="log_denied",
            hint="Grant read, write, create and describe on topics and groups that begin with the prefix.",
        )  # fmt: skip
    return None
