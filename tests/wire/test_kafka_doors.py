"""wire: a real broker that asks who comes: TLS, passwords, certificates and rights, and each mistake with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from penstock.app.home import open_home
from penstock.app.processes.group import GroupSeats, Lags
from penstock.log import Commit
from penstock.log.kafka import PARTITIONS, KafkaLog, follow, place
from penstock.record.errors import Refused, Unavailable
from penstock.record.record import START, Draft
from tests.engines import doors, kafka
from tools.kafka.secure import READER, RIGHTS, USER, Doors, lines

SOON_S = 20.0
Settings = dict[str, str]
Opening = Callable[[str, Settings], KafkaLog]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    """What opens a log on an address with settings, each time in a home of its own."""
    with ExitStack() as stack:
        homes = iter(range(1000))

        def open_log(address: str, settings: Settings) -> KafkaLog:
            log = KafkaLog(tmp_path / str(next(homes)), place(address, lines(settings)))
            return stack.enter_context(closing(log))

        yield open_log


def fresh(address: str) -> str:
    """A log of its own behind another listener."""
    return f"kafka://{address}/{kafka().rpartition('/')[2]}"


def whole(log: KafkaLog) -> list[tuple[str, bytes]]:
    """All that the test's topics hold."""
    return [(one.id, one.value) for one in log.read(["in", "out"], START)[0]]


def ways(at: Doors) -> dict[str, tuple[str, Settings]]:
    """How one may come."""
    return {
        "SCRAM-SHA-512": (at.address, at.sasl),
        "PLAIN": (at.address, {**at.sasl, "sasl.mechanism": "PLAIN"}),
        "certificate": (at.mutual, at.tls),
    }


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "PLAIN", "certificate"])
def test_who_may_come_has_the_whole_log(way: str, opening: Opening) -> None:
    """With the rights that the hint names and no other: appends, commits, fences; another home goes on from there."""
    address, settings = ways(doors())[way]
    url = fresh(address)
    log = opening(url, settings)
    log.append([Draft("in", "k", 1, b"one", "a"), Draft("in", "k", 2, b"two", "b")], producer="p", sequence=1)
    log.append([Draft("in", "k", 1, b"one", "a"), Draft("in", "k", 2, b"two", "b")], producer="p", sequence=1)
    epoch = log.load("fold", claim=True).epoch
    log.commit(Commit("fold", epoch, log.end(), (Draft("out", "k", 2, b"both", "fold:1"),), b"state"))
    other = opening(url, settings)
    assert whole(other) == whole(log) == [("a", b"one"), ("b", b"two"), ("fold:1", b"both")]
    kept = other.load("fold", claim=True)
    assert (kept.state, kept.epoch, kept.position.n) == (b"state", epoch + 1, 2)
    with pytest.raises(Unavailable) as fenced:
        log.commit(Commit("fold", epoch, log.end(), (), b"late"))
    assert fenced.value.code == "fenced"


def mistakes(at: Doors) -> dict[str, tuple[str, Settings, str]]:
    """What a caller may get wrong: where it goes, with which settings, and the code of the answer."""
    plain = kafka().split("/")[2]
    strange = str(at.folder / "stranger.crt")
    return {
        "a wrong password": (at.address, {**at.sasl, "sasl.password": "secret-word"}, "log_denied"),
        "a wrong password, said plainly": (
            at.address, {**at.sasl, "sasl.mechanism": "PLAIN", "sasl.password": "secret-word"}, "log_denied",
        ),
        "an unknown name": (at.address, {**at.sasl, "sasl.username": "secret-word"}, "log_denied"),
        "a mechanism of no broker": (at.address, {**at.sasl, "sasl.mechanism": "SCRAM-SHA-256"}, "log_denied"),
        "no rights here": (at.address, at.sasl, "log_denied"),
        "an unknown authority": (at.address, {**at.sasl, "ssl.ca.location": strange}, "log_tls"),
        "another host than the certificate's": (at.address.replace("127.0.0.1", "localhost"), at.sasl, "log_tls"),
        "no TLS to a port of it": (at.address, {}, "log_tls"),
        "a password but no TLS": (at.address, {**at.sasl, "security.protocol": "SASL_PLAINTEXT"}, "log_tls"),
        "TLS to a port without": (plain, at.sasl, "log_tls"),
        "no certificate": (at.mutual, {**at.tls, "ssl.certificate.location": "", "ssl.key.location": ""}, "log_tls"),
        "a certificate of nobody": (at.mutual, {**at.tls, **at.shown("stranger")}, "log_tls"),
        "a file that is not there": (at.address, {**at.sasl, "ssl.ca.location": "/secret-word"}, "log_settings"),
        "no password": (at.address, {**at.sasl, "sasl.password": ""}, "log_settings"),
        "no such setting": (plain, {"sasl.pasword": "secret-word"}, "log_settings"),
        "no such value": (plain, {"security.protocol": "secret-word"}, "log_settings"),
        "what is no text in Python": (plain, {"error_cb": "secret-word"}, "log_settings"),
    }  # fmt: skip


def test_each_mistake_is_named(opening: Opening, capfd: pytest.CaptureFixture[str]) -> None:
    """It is refused within seconds, under its code, and no word of the caller's stands in what is told."""
    at = doors()
    urls = {name: fresh(address) for name, (address, _, _) in mistakes(at).items()}
    urls["no rights here"] = f"kafka://{at.address}/foreign"

    def tried(name: str) -> tuple[str, float, str]:
        _, settings, _ = mistakes(at)[name]
        began = time.monotonic()
        given = {key: value for key, value in settings.items() if value}
        try:
            opening(urls[name], given)
        except Refused as error:
            return error.code, time.monotonic() - began, f"{error} {error.__cause__ or ''}"
        return "", 0.0, ""

    with ThreadPoolExecutor(len(urls)) as threads:
        found = dict(zip(urls, threads.map(tried, urls), strict=True))
    assert {name: code for name, (code, _, _) in found.items()} == {
        name: code for name, (_, _, code) in mistakes(at).items()
    }
    assert max(seconds for _, seconds, _ in found.values()) < SOON_S
    told = " ".join([*(text for _, _, text in found.values()), *capfd.readouterr()])
    assert not [word for word in ("secret-word", *at.passwords.values()) if word in told]


def test_who_may_only_read_is_told(opening: Opening) -> None:
    """A reader follows the log; its append is answered within seconds with what it lacks, and is not there."""
    at = doors()
    url = fresh(at.address)
    log = opening(url, at.sasl)
    log.append([Draft("in", "k", 1, b"one", "a")])
    reader = opening(url, {**at.sasl, "sasl.username": READER, "sasl.password": at.passwords[READER]})
    assert whole(reader) == [("a", b"one")]
    began = time.monotonic()
    with pytest.raises(Unavailable) as denied:
        reader.append([Draft("in", "k", 2, b"two", "b")])
    assert denied.value.code == "log_denied" and time.monotonic() - began < SOON_S
    assert whole(log) == [("a", b"one")]


def test_seats_and_lags_come_through_the_door(opening: Opening) -> None:
    """A process behind TLS and a password gets its seats, and its lag stands where Kafka's tools look."""
    at = doors()
    log = opening(fresh(at.address), at.sasl)
    log.append([Draft("in", "k", n, b"x", str(n)) for n in range(5)])
    seats = GroupSeats(log, "", {"fold": 2}, lambda seat: None)
    try:
        deadline = time.monotonic() + SOON_S
        while len(seats.held()) < 2 and time.monotonic() < deadline:
            seats.look()
            time.sleep(0.02)
        assert seats.held() == {("fold", 0), ("fold", 1)}
    finally:
        seats.close()
    Lags(log).show("fold", ["in"], log.read(["in"], START, limit=3)[1])
    topic = log.place.topic("in")
    shown = Consumer(log.settings(**{"group.id": log.place.topic("fold")}))
    with closing(shown):
        parts = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        ends = [shown.get_watermark_offsets(one, 10)[1] for one in parts]
        assert sum(ends) - sum(one.offset for one in shown.committed(parts, 10)) == 2


def test_a_home_that_is_through_shows_no_lag(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last entries before a pause are counted, too, in the group that Kafka's tools show for a home."""
    monkeypatch.setattr(follow, "TOLD_EVERY_S", 0.5)
    at = doors()
    log = opening(fresh(at.address), at.sasl)
    for n in range(5):
        log.append([Draft("in", "k", n, b"x", str(n))])
    (end,) = log.about()["entries"][1:]
    with closing(
        Consumer(log.settings(**{"group.id": f"{log.place.prefix}-{log.name.partition('/')[0]}"}))
    ) as shown:
        journal, offset = TopicPartition(log.place.journal, 0), -1
        deadline = time.monotonic() + SOON_S
        while offset < end and time.monotonic() < deadline:
            time.sleep(0.1)
            offset = shown.committed([journal], 10)[0].offset
    assert offset == end >= 5


def told(home: Path) -> tuple[int, str]:
    """What `penstock doctor` says of a home: its status and all its words."""
    command = [sys.executable, "-m", "penstock.cli", "doctor", "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_password_stays_in_its_file(tmp_path: Path) -> None:
    """A home remembers where the settings are, not what is in them; a password that others may read is refused."""
    at = doors()
    home, file = tmp_path / "home", tmp_path / "settings"
    file.touch(mode=0o600)
    file.write_text(lines(at.sasl))
    opened = open_home(home, create=True, log=fresh(at.address), settings=os.path.relpath(file))
    opened.log.append([Draft("in", "k", 1, b"one", "a")])
    opened.log.close()
    status, words = told(home)
    assert status == 0 and '"behind": 0' in words
    file.write_text(lines({**at.sasl, "sasl.password": "secret-word"}))
    status, wrong = told(home)
    assert status != 0 and "[log_denied]" in wrong
    file.chmod(0o644)
    status, open_to_all = told(home)
    assert status != 0 and "[log_secret]" in open_to_all and "sasl.password" in open_to_all
    hidden = [at.passwords[USER], "secret-word"]
    assert not [word for word in hidden if word in words + wrong + open_to_all]
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert not [word for word in hidden if word.encode() in kept]


def test_the_page_says_what_is_tried_here() -> None:
    """`docs/kafka.md`: its settings are those that opened a log here, its rights and its codes, too."""
    at, page = doors(), (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    assert [set(place("kafka://b", text).settings) for text in blocks] == [set(at.sasl), set(at.tls)]
    assert f"| topics | {', '.join(RIGHTS[USER])} |" in page
    codes = {code for _, _, code in mistakes(at).values()}
    assert codes | {"log_url", "log_secret", "log_away"} == set(
        re.findall(r"^\| `(\w+)`", page, re.MULTILINE)
    )
