"""faults: the ledger pipeline on a cluster of three brokers, while stages, brokers and connections fail.

    python -m tests.faults.kafka [--seed N] [--scale 1.0] [--only PART]

Two producers of one home and two stages of a home each, every one a process. After each part the log is
held against a plain recomputation: what was acknowledged is there once, the stages' states are the fold of
it, outputs lie once under the ids that they must have, no zombie's word is visible, and all mirrors are equal.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from penstock.log.kafka import KafkaLog, place
from penstock.log.kafka.wire import Entry
from penstock.record.codec import digest, pack, unpack
from penstock.record.record import START, Record
from penstock.stage import replay, restore, with_ids
from tests.faults.finding import Finding, Plan
from tests.faults.kafka_child import FENCED, STAGES, batch
from tests.faults.proxy import Proxy
from tests.faults.queues import queues
from tests.faults.unfenced import UNFENCED
from tools.kafka.broker import Cluster

TREE = Path(__file__).resolve().parents[2]
DRAIN_S = 120.0
LONG = {"stage kills": 50, "broker kills": 20, "cuts": 40, "zombies": 10, "answers lost": 12, "queues": 10}
PLANTED = {
    "stage kills": {"first": "outputs are missing", "last": "outputs lie twice"},
    "zombies": {"fence": "an output of an older owner lies after one of a newer"},
    "queues": {"begin": "the predictions differ"},
}
"""The bugs that are put in, each with what must be seen of it."""
TRIES = 6
Part = Callable[..., tuple[list[str], str]]
MIRROR = (
    "SELECT kind, name, body FROM fact WHERE kind IN ('topic', 'producer') ORDER BY kind, name",
    "SELECT place, n, ahead, crc, body FROM batch ORDER BY place",
    "SELECT topic, id, position FROM ident ORDER BY topic, id",
    "SELECT name, body FROM fact WHERE kind = 'stage' ORDER BY name",
    "SELECT stage, crc, body FROM state ORDER BY stage",
    "SELECT stage, epoch, number FROM slot ORDER BY stage",
    "SELECT name, number, seen FROM writer ORDER BY name",
    "SELECT topic, n FROM named ORDER BY topic",
)


class Pipeline:
    """The processes of one run on a fresh log, and what is known of them."""

    def __init__(self, folder: Path, url: str, direct: str, seed: int, planted: str = "") -> None:
        self.folder, self.url, self.direct, self.seed, self.planted = folder, url, direct, seed, planted
        folder.mkdir()
        self.began: dict[str, float] = {}
        self.homes = {"p1": "p", "p2": "p", "fold": "fold", "total": "total"}
        self.running = {name: self.start(name) for name in self.homes}

    def start(self, name: str, home: str = "") -> subprocess.Popen[bytes]:
        """One process; stages and producers are known by their name."""
        self.began[name] = time.time()
        role = "run" if name in STAGES else "produce"
        at = self.folder / (home or self.homes[name])
        command = [sys.executable, "-m", "tests.faults.kafka_child", role, name, str(at), self.url]
        with (self.folder / f"notes.{name}").open("ab") as notes:
            more = [str(self.folder), str(self.seed), self.planted]
            return subprocess.Popen([*command, *more], cwd=TREE, stdout=notes, stderr=notes)

    def at_work(self, stage: str) -> bool:
        """Whether the process that runs a stage now has claimed it."""
        marks = [one.stat().st_mtime for one in self.folder.glob(f"epoch.{stage}.*")]
        return max(marks, default=0.0) > self.began[stage]

    def kill(self, name: str) -> None:
        """End a process as the kernel does, and start it again."""
        one = self.running[name]
        one.kill()
        one.wait()
        self.running[name] = self.start(name)

    def wait_ready(self, epochs: int = 1, within_s: float = 40.0) -> None:
        """Until both producers were answered and both stages claimed."""
        self.wait_for(
            lambda: (
                all((self.folder / f"acked.{p}").exists() and self.acked(p) for p in ("p1", "p2"))
                and all(len(list(self.folder.glob(f"epoch.{s}.*"))) >= epochs for s in STAGES)
            ),
            within_s,
        )

    def wait_for(self, true: Callable[[], bool], within_s: float) -> None:
        """Raises TimeoutError when it does not become true."""
        deadline = time.monotonic() + within_s
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"in {self.folder}: the pipeline stands still; see its notes.*")
            time.sleep(0.02)

    def acked(self, producer: str) -> list[int]:
        """The numbers that were acknowledged to a producer."""
        lines = (self.folder / f"acked.{producer}").read_text().split("\n")[:-1]
        return [int(line) for line in lines]

    def drain(self) -> list[str]:
        """End it in order: producers, then each stage when it is through. What went wrong with it."""
        (self.folder / "stop").touch()
        wrong = [self._ended(name) for name in ("p1", "p2")]
        for name in STAGES:
            with contextlib.closing(KafkaLog(self.folder / "judge", place(self.direct))) as log:
                fresh = self.folder / "drain.new"
                fresh.write_text(str(log.end().n))
                fresh.rename(self.folder / f"drain.{name}")
            wrong.append(self._ended(name))
        return [one for one in wrong if one]

    def _ended(self, name: str) -> str:
        try:
            code = self.running[name].wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            return f"{name} did not end"
        return f"{name} ended with {code}" if code else ""

    def close(self) -> None:
        """End what still runs."""
        for one in self.running.values():
            one.kill()
            one.wait()


def everything(log: KafkaLog, topic: str) -> list[Record]:
    """All records of a topic."""
    found, position = [], START
    while True:
        records, position = log.read([topic], position, limit=5000)
        if not records:
            return found
        found += records


def judge(pipeline: Pipeline) -> list[str]:
    """Every difference between the log and a plain recomputation, in words."""
    with contextlib.closing(KafkaLog(pipeline.folder / "judge", place(pipeline.direct))) as log:
        events = everything(log, "events")
        wrong = _appended(pipeline, events)
        for name, source, out in (("fold", "events", "folded"), ("total", "folded", "totals")):
            wrong += _folded(log, name, everything(log, source), everything(log, out))
        end = log.end()
        wanted = mirror(log)
    for home in sorted({*pipeline.homes.values(), "fresh"}):
        with contextlib.closing(KafkaLog(pipeline.folder / home, place(pipeline.direct))) as log:
            if log.end() != end or mirror(log) != wanted:
                wrong.append(f"the mirror of {home} differs")
    return wrong


def _appended(pipeline: Pipeline, events: list[Record]) -> list[str]:
    wrong = []
    found: dict[str, Counter[tuple[int, int]]] = {"p1": Counter(), "p2": Counter()}
    for one in events:
        producer, sequence, i, _ = one.value.decode().split()
        found[producer][int(sequence), int(i)] += 1
    for producer, counts in found.items():
        acked = pipeline.acked(producer)
        newest = max([sequence for sequence, _ in counts], default=0)
        wanted = Counter(
            (sequence, i)
            for sequence in range(1, newest + 1)
            for i in range(len(batch(producer, sequence, pipeline.seed)))
        )
        if counts != wanted:
            wrong.append(
                f"{producer}: {sum((wanted - counts).values())} lost, {sum((counts - wanted).values())} doubled"
            )
        if (acked and max(acked) > newest) or len(set(acked)) != len(acked):
            wrong.append(f"{producer}: an acknowledged append is missing")
    return wrong


def _folded(log: KafkaLog, name: str, sources: list[Record], outputs: list[Record]) -> list[str]:
    stage, wrong = STAGES[name], []
    kept = log.load(name)
    lines: dict[str, tuple[int, int, str]] = {}
    for one in sources:
        count, total, chain = lines.get(one.key, (0, 0, ""))
        number = int(one.value.rpartition(b" ")[2])
        link = f"{chain} {one.topic} {one.position}".encode() + one.value
        lines[one.key] = count + 1, total + number, hashlib.sha256(link).hexdigest()[:16]
    state = restore(stage, log, kept)
    if state.lines != lines:
        wrong.append(f"{name}: the ledger differs")
    if digest(stage.dump(state)) != digest(stage.dump(replay(stage, log))):
        wrong.append(f"{name}: the state is not that of a replay")
    _, emitted = stage.step_many(stage.empty(), sources)
    wanted = [(one.id, one.key, one.value) for one in with_ids(name, emitted)]
    got = [(one.id, one.key, one.value) for one in outputs]
    said, due = (Counter(one[1:] for one in some) for some in (got, wanted))
    extra = said - due
    off = {
        "are missing": (due - said).total(),
        "lie twice": sum(n for one, n in extra.items() if one in due),
        "were never due": sum(n for one, n in extra.items() if one not in due),
    }
    wrong += [f"{name}: {n} outputs {what}" for what, n in off.items() if n]
    if said == due and got != wanted:
        wrong.append(f"{name}: outputs lie under other ids, or in another order")
    epochs = [int(one.headers["epoch"]) for one in outputs]
    if epochs != sorted(epochs):
        wrong.append(f"{name}: an output of an older owner lies after one of a newer")
    return wrong


def mirror(log: KafkaLog) -> str:
    """The digest of all that a mirror holds, but for what is its home's alone."""
    with log._reading() as db:
        return digest(pack([[list(row) for row in db.execute(sql)] for sql in MIRROR]))


def twice(pipeline: Pipeline) -> tuple[int, str]:
    """What was sent again, for nobody knew of the first: entries and records; their number, and in words."""
    where = place(pipeline.direct)
    settings = {"bootstrap.servers": where.brokers, "group.id": "judge", "enable.partition.eof": True}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(where.journal, 0, 0)])
    seen: Counter[tuple[str, int]] = Counter()
    while True:
        message = consumer.poll(10)
        if message is None or message.error() is not None:
            break
        entry = unpack(message.value() or b"", Entry)
        seen[entry.writer, entry.number] += 1
    consumer.close()
    again = sum(n - 1 for n in seen.values())
    with contextlib.closing(KafkaLog(pipeline.folder / "judge", where)) as log:
        orphans = sum(log.about()["orphans"].values())
    return again + orphans, f"{again} entries came twice, {orphans} records were left"


class Harness:
    """A cluster with proxies before it, and the parts that are run on it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.cluster = Cluster(folder / "brokers", 3, proxied=True)
        self.proxies = [
            Proxy(outer, inner, seed + i)
            for i, (outer, inner) in enumerate(zip(self.cluster.outer, self.cluster.inner, strict=True))
        ]
        self._runs = 0

    def close(self) -> None:
        """End everything."""
        for proxy in self.proxies:
            proxy.close()
        self.cluster.stop()

    @contextlib.contextmanager
    def pipeline(self, *, proxied: bool = False, planted: str = "") -> Iterator[Pipeline]:
        """A pipeline that is under way on a fresh log."""
        self._runs += 1
        direct = f"kafka://{self.cluster.address}/run{self._runs}"
        url = f"kafka://{self.cluster.proxied}/run{self._runs}" if proxied else direct
        found = Pipeline(self.folder / f"run{self._runs}", url, direct, self.seed, planted)
        try:
            found.wait_ready()
            yield found
        finally:
            found.close()

    def stage_kills(self, chance: random.Random, times: int, planted: str = "") -> tuple[list[str], str]:
        """kill -9 of a producer or stage at a random moment."""
        names = ["fold", "total"] if planted else ["fold", "p1", "total", "p2"]
        with self.pipeline(planted=planted) as pipeline:
            for i in range(times):
                time.sleep(chance.uniform(0.0, 0.6))
                victim = names[i % 2] if planted else chance.choice(names)
                # Some in their first breath, most at work; a bug shows at work only.
                if victim in STAGES and (planted or chance.random() < 0.8):
                    pipeline.wait_for(partial(pipeline.at_work, victim), 40)
                time.sleep(chance.uniform(0.0, 0.3))
                pipeline.kill(victim)
            wrong = pipeline.drain()
            return wrong + judge(pipeline), twice(pipeline)[1]

    def broker_kills(self, chance: random.Random, times: int) -> tuple[list[str], str]:
        """kill -9 of one broker at a time, started again."""
        with self.pipeline() as pipeline:
            for _ in range(times):
                victim = chance.randrange(3)
                time.sleep(chance.uniform(0.0, 1.0))
                self.cluster.kill(victim)
                time.sleep(chance.uniform(0.0, 2.0))
                self.cluster.start([victim])
            wrong = pipeline.drain()
            return wrong + judge(pipeline), twice(pipeline)[1]

    def cuts(self, chance: random.Random, times: int) -> tuple[list[str], str]:
        """Connections are delayed all the time, and all of a broker's, or of all, cut at random moments."""
        with self.pipeline(proxied=True) as pipeline:
            ended = 0
            for proxy in self.proxies:
                proxy.delay_s = 0.01
            for _ in range(times):
                time.sleep(chance.uniform(0.0, 0.8))
                ended += sum(
                    one.cut() for one in chance.choice([self.proxies, [chance.choice(self.proxies)]])
                )
            for proxy in self.proxies:
                proxy.delay_s = 0.0
            wrong = pipeline.drain()
            return wrong + judge(pipeline), f"{ended} connections, {twice(pipeline)[1]}"

    def answers_lost(self, chance: random.Random, times: int) -> tuple[list[str], str]:
        """What brokers answer is lost for a moment, then the connections are cut: outcomes are unknown."""
        with self.pipeline(proxied=True) as pipeline:
            for i in range(times):
                time.sleep(chance.uniform(0.2, 0.8))
                for proxy in self.proxies:
                    proxy.deaf = True
                time.sleep(
                    chance.uniform(0.1, 0.5) if i % 2 else 6.5
                )  # longer than an attempt: a new producer
                for proxy in self.proxies:
                    proxy.cut()
                    proxy.deaf = False
            wrong = pipeline.drain()
            again, told = twice(pipeline)
            if not again:
                wrong.append("no outcome was unknown: nothing was tried")
            return wrong + judge(pipeline), told

    def zombies(self, chance: random.Random, times: int, planted: str = "") -> tuple[list[str], str]:
        """A stage is stopped past its successor's claim, then goes on: its commit is fenced."""
        wrong = []
        # The judge's home is one like all others: what it applies is as wrong as in theirs.
        everywhere = UNFENCED if planted else contextlib.nullcontext()
        with self.pipeline(planted=planted) as pipeline, everywhere:
            for i in range(times):
                time.sleep(chance.uniform(0.1, 0.6))
                zombie = pipeline.running["fold"]
                zombie.send_signal(signal.SIGSTOP)
                known = len(list(pipeline.folder.glob("epoch.fold.*")))
                pipeline.homes["fold"] = f"fold{i}"
                pipeline.running["fold"] = pipeline.start("fold")
                pipeline.wait_for(
                    lambda known=known: len(list(pipeline.folder.glob("epoch.fold.*"))) > known, 40
                )
                time.sleep(chance.uniform(0.2, 0.6))
                zombie.send_signal(signal.SIGCONT)
                try:
                    code: Any = zombie.wait(5 if planted else 20)
                except subprocess.TimeoutExpired:
                    code = None
                    zombie.kill()
                    zombie.wait()
                if code != FENCED and not planted:  # planted: the ledger itself must show it
                    wrong.append(f"a zombie was not fenced: {code}")
            wrong += pipeline.drain()
            return wrong + judge(pipeline), ""

    def queues(self, chance: random.Random, times: int, planted: str = "") -> tuple[list[str], str]:
        """kill -9 of one of two processes of each stage of a pipeline with queues and models on models."""
        self._runs += 1
        url = f"kafka://{self.cluster.address}/run{self._runs}"
        return queues(self.folder / f"run{self._runs}", url, chance, times, planted)


def _parts(harness: Harness) -> dict[str, Part]:
    return {
        "stage kills": harness.stage_kills,
        "broker kills": harness.broker_kills,
        "cuts": harness.cuts,
        "zombies": harness.zombies,
        "answers lost": harness.answers_lost,
        "queues": harness.queues,
    }


def findings(plan: Plan, only: str = "") -> Iterator[Finding]:
    """Each part's finding, under `plan.seed`, `plan.scale` times as long as the long form, told to `plan.note`."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        harness = Harness(Path(folder), plan.seed)
        try:
            harness.cluster.start()
            for name, part in _parts(harness).items():
                if not only or name == only:
                    times = plan.times(LONG[name], 2)
                    yield _found(plan, name, times, part, _planted(plan, name, part))
        finally:
            harness.close()


def _planted(plan: Plan, name: str, part: Part) -> tuple[int, int]:
    """How many of a part's planted bugs were caught, each by what must be seen of it, and how many were tried."""
    caught, bugs = 0, PLANTED.get(name, {})
    for bug, sign in bugs.items():
        wrong, _ = part(random.Random(f"{plan.seed}/{bug}"), TRIES, planted=bug)
        seen = any(sign in one for one in wrong)
        plan.note(f"kafka, planted {bug}: {'' if seen else 'NOT CAUGHT: '}{'; '.join(wrong) or 'nothing'}")
        caught += seen
    return caught, len(bugs)


def _found(plan: Plan, name: str, times: int, part: Part, bugs: tuple[int, int]) -> Finding:
    began = time.monotonic()
    wrong, told = part(random.Random(f"{plan.seed}/{name}"), times)
    for one in wrong:
        plan.note(f"kafka, {name}, seed {plan.seed}: {one}")
    planted = ", ".join(PLANTED.get(name, {}))
    seconds = time.monotonic() - began
    return Finding(f"kafka: {name}", times, len(wrong), planted, *bugs, seconds, told)


def main() -> int:
    """Run the parts and print a line of each; 1 when one found a difference or missed a planted bug."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", choices=sorted(LONG), default="")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    bad = 0
    plan = Plan(given.seed, given.scale, partial(print, file=sys.stderr, flush=True))
    for one in findings(plan, given.only):
        print(
            f"{one.name}: {one.provoked} provoked, {one.differences} differences, planted {one.caught}/{one.planned}"
            f" {one.planted}, {one.seconds:.0f} s {one.note}",
            flush=True,
        )
        bad += bool(one.differences or one.caught < one.planned)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
