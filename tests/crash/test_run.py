"""crash: stages in several processes, some killed or stopped, end in the log of one undisturbed process."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.app.digest import digests
from penstock.app.home import Home, open_home
from penstock.app.parts import Parts
from penstock.app.processes.crew import Crew, Settings
from penstock.app.processes.turn import Others
from penstock.app.system import own
from penstock.record.decisions import predictions
from penstock.record.errors import Fenced
from penstock.record.record import START
from tests.crash.crews import crew, drive, driver, embedded, events, everything
from tests.engines import kafka

HOURS = 84
SHARES = 3
Process = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The history played in one process, with the same number of shares."""
    return embedded(tmp_path_factory.mktemp("calm") / "home", HOURS, SHARES)


def ended(processes: list[Process]) -> list[int]:
    """Ask processes to end; their statuses."""
    for one in processes:
        one.send_signal(signal.SIGTERM)
    return [one.wait(60) for one in processes]


def seated(home: Path, process: Process) -> bool:
    """Whether a process has looked for its seats, and so listens to who asks it to end."""
    return any(home.glob(f"seats/*/by-{process.pid}-*"))


def ask(others: Others, hours: int) -> None:
    """Append the asks of the first hours; those that are there already stand."""
    source = others.file.source("ask")
    others.log.append([source.draft(source.parse(row)) for _, topic, row in events(hours) if topic == "ask"])


def until(true: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_processes_change_nothing(calm: Home, tmp_path: Path) -> None:
    """Two processes, one of them killed again and again: the same records at the same positions."""
    home = open_home(tmp_path / "home", create=True)
    others = driver(home, SHARES)
    processes = [crew(home.path) for _ in range(2)]
    chance, periods = random.Random(5), 0

    def told(_: object) -> None:
        nonlocal periods
        periods += 1
        if periods % 30 == 20:
            i = chance.randrange(2)
            processes[i].kill()
            processes[i].wait()
            processes[i] = crew(home.path)

    try:
        drive(others, HOURS, told)
        until(lambda: all(seated(home.path, one) for one in processes))
    finally:
        statuses = ended(processes)
    assert statuses == [0, 0]
    assert everything(home) == everything(calm)
    assert digests(home.log, ["agree"]) == digests(calm.log, ["agree"])
    names = ["predict.agree/1of3", "outcome.agree", "release.agree"]
    assert [home.log.load(n).state for n in names] == [calm.log.load(n).state for n in names]
    home.log.close()


def test_who_stands_by_takes_over(calm: Home, tmp_path: Path) -> None:
    """One of two processes is killed for good: the other does all the work within seconds, from its states."""
    home = open_home(tmp_path / "home", create=True)
    others = driver(home, SHARES)
    processes = [crew(home.path) for _ in range(2)]
    last, waits = time.monotonic(), []

    def told(_: object) -> None:
        nonlocal last
        waits.append(time.monotonic() - last)
        if len(waits) == 50:
            gone = processes.pop()
            gone.kill()
            gone.wait()
        last = time.monotonic()

    try:
        drive(others, HOURS, told)
    finally:
        statuses = ended(processes)
    assert statuses == [0] and everything(home) == everything(calm)
    assert max(waits[50:]) < 10
    home.log.close()


def test_a_stopped_owner_is_fenced(calm: Home, tmp_path: Path) -> None:
    """An owner that sleeps past its successor's claim commits nothing of its own when it wakes."""
    home = open_home(tmp_path / "home", create=True)
    others = driver(home, 1)
    (stage,) = Parts(others.file, home.log, home.blobs, time.perf_counter).posts(1)["predict.agree"]
    ask(others, 9)
    zombie = crew(home.path, stages="predict")
    until(lambda: home.log.stages().get(stage.name) and home.log.stages()[stage.name].position.n > 0)
    zombie.send_signal(signal.SIGSTOP)
    before = home.log.stages()[stage.name]
    successor = own(stage, home.log)
    assert successor.epoch == before.epoch + 1 and successor.position == before.position
    ask(others, 20)
    zombie.send_signal(signal.SIGCONT)
    time.sleep(1)
    known = home.log.stages()[stage.name]
    assert (known.epoch, known.position) == (successor.epoch, before.position)
    until(
        lambda: home.log.stages()[stage.name].epoch > successor.epoch
    )  # its seat is its own: it claims anew
    with pytest.raises(Fenced):
        successor.advance()
    assert ended([zombie]) == [0]
    home.log.close()


def test_who_takes_a_stage_over_looks_again(tmp_path: Path) -> None:
    """It folds nothing yet: since it saw its turn the owner before it may have moved, and it be another's."""
    home = open_home(tmp_path / "home", create=True)
    others = driver(home, 1)
    ask(others, 9)
    one, seat = Crew(others.file, home, Settings(("predict",), in_turn=True), 1), ("predict.agree", 0)
    one.seats.look()
    assert one.advance(seat) and home.log.stages()["predict.agree"].position == START
    assert one.advance(seat) and home.log.stages()["predict.agree"].position.n > 0
    one.stop()
    home.log.close()


def test_seats_move_on_kafka(calm: Home, tmp_path: Path) -> None:
    """Two homes share the seats of a consumer group; one is killed, and another comes: the same in the end."""
    from confluent_kafka import Consumer, TopicPartition

    url = kafka()
    prefix = url.rpartition("/")[2]
    quick = tmp_path / "settings"
    quick.write_text("session.timeout.ms=1500\n")
    where = ["--log", url, "--log-settings", str(quick), "--blobs", str(tmp_path / "blobs")]
    home = open_home(tmp_path / "home", create=True, log=url, blobs=str(tmp_path / "blobs"))
    others = driver(home, SHARES)
    processes = [crew(tmp_path / f"home{i}", *where) for i in range(2)]
    periods = 0

    def told(_: object) -> None:
        nonlocal periods
        periods += 1
        if periods == 50:
            processes[0].kill()
            processes[0].wait()
            processes[0] = crew(tmp_path / "another", *where)

    try:
        drive(others, HOURS, told)
    finally:
        statuses = ended(processes)
    assert statuses == [0, 0] and digests(home.log, ["agree"]) == digests(calm.log, ["agree"])
    assert home.log.count(predictions("agree"), START) == calm.log.count(predictions("agree"), START)
    assert [one[:2] for one in everything(home)] == [one[:2] for one in everything(calm)]
    asked = TopicPartition(f"{prefix}.ask", 0)
    shown = Consumer({"bootstrap.servers": url.split("/")[2], "group.id": f"{prefix}.outcome.agree"})
    assert 0 < shown.committed([asked], 10)[0].offset <= shown.get_watermark_offsets(asked, 10)[1]
    shown.close()
    home.log.close()
