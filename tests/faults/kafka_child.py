"""faults: a producer or a stage of the ledger pipeline on Kafka, as a process of its own. Made to be killed.

Each output carries the epoch of its owner in a header. `planted` names the bug that it has.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from pathlib import Path

import msgspec

from penstock.log import Appended, Commit
from penstock.log.kafka import KafkaLog, place
from penstock.record.errors import Fenced, Unavailable
from penstock.record.record import Draft, Record
from penstock.stage import Running, Stage, stage
from tests.faults.unfenced import UNFENCED

FENCED = 3
KEYS = 12
Line = tuple[int, int, str]
"""Count, sum, hash chain of (topic, position, value)."""


class Ledger(msgspec.Struct, frozen=True):
    """What a stage knows of each key."""

    lines: dict[str, Line] = {}


def step(state: Ledger, record: Record) -> tuple[Ledger, list[Draft]]:
    """Add a record to its key's line, and pass its number on."""
    count, total, chain = state.lines.get(record.key, (0, 0, ""))
    number = int(record.value.rpartition(b" ")[2])
    link = f"{chain} {record.topic} {record.position}".encode() + record.value
    line = count + 1, total + number, hashlib.sha256(link).hexdigest()[:16]
    out = Draft(OUTPUTS[record.topic], record.key, record.time_ms, f"{record.position} {number}".encode())
    return Ledger({**state.lines, record.key: line}), [out]


OUTPUTS = {"events": "folded", "folded": "totals"}
STAGES: dict[str, Stage[Ledger]] = {
    "fold": stage("fold", ["events"], Ledger, step, snapshot_every=40),
    "total": stage("total", ["folded"], Ledger, step, snapshot_every=1),
}


def batch(producer: str, sequence: int, seed: int) -> list[Draft]:
    """What a producer sends under a number: the same whenever it is made again."""
    chance = random.Random(f"{producer}/{sequence}/{seed}")
    return [
        Draft(
            "events", f"k{chance.randrange(KEYS)}", sequence, f"{producer} {sequence} {i} {number}".encode()
        )
        for i, number in enumerate(chance.randrange(1000) for _ in range(chance.randint(1, 12)))
    ]


def produce(log: KafkaLog, name: str, seed: int, folder: Path) -> None:
    """Append numbered batches until told to stop; an acknowledged number goes into a file."""
    chance = random.Random()
    with (folder / f"acked.{name}").open("a") as acked:
        sequence = log.last(name)
        while not (folder / "stop").exists():
            sequence += 1
            while True:
                try:
                    log.append(batch(name, sequence, seed), producer=name, sequence=sequence)
                    break
                except Unavailable:
                    print("append again", file=sys.stderr, flush=True)
            print(sequence, file=acked, flush=True)
            time.sleep(chance.uniform(0, 0.02))


def run(log: KafkaLog, name: str, folder: Path) -> None:
    """Advance a stage until it is drained to the position that a file says."""
    drain = folder / f"drain.{name}"
    while True:
        try:
            running = Running(STAGES[name], log, batch=50)
            mark = folder / f"epoch.{name}.{running.epoch}"
            mark.touch()
            while True:
                if running.advance() is None:
                    if drain.exists() and log.end().n >= int(drain.read_text() or "1000000000"):
                        running.save()
                        return
                    log.wait(log.end(), 0.1)
        except Fenced:
            sys.exit(FENCED)
        except Unavailable:
            print("stage again", file=sys.stderr, flush=True)


def plant(planted: str) -> None:
    """Make the engine wrong."""
    whole, marked = KafkaLog.commit, msgspec.structs.replace

    def first(log: KafkaLog, commit: Commit, *, sync: bool = True) -> Appended:
        done = whole(log, marked(commit, outputs=[]), sync=sync)
        time.sleep(0.1)
        log.append(commit.outputs)
        return done

    def last(log: KafkaLog, commit: Commit, *, sync: bool = True) -> Appended:
        log.append([marked(draft, id="") for draft in commit.outputs])
        time.sleep(0.1)
        return whole(log, marked(commit, outputs=[]), sync=sync)

    if planted in ("first", "last"):
        KafkaLog.commit = first if planted == "first" else last  # type: ignore[method-assign]
    if planted == "fence":
        UNFENCED.start()
    owned = KafkaLog.commit

    def named(log: KafkaLog, commit: Commit, *, sync: bool = True) -> Appended:
        outputs = [marked(draft, headers={"epoch": str(commit.epoch)}) for draft in commit.outputs]
        return owned(log, marked(commit, outputs=outputs), sync=sync)

    KafkaLog.commit = named  # type: ignore[method-assign]


def main(role: str, name: str, home: str, url: str, folder: str, seed: str, planted: str = "") -> None:
    """Be one process of the pipeline."""
    plant(planted)
    while True:
        try:
            log = KafkaLog(Path(home), place(url))
            break
        except Unavailable:
            print("open again", file=sys.stderr, flush=True)
    if role == "produce":
        produce(log, name, int(seed), Path(folder))
    else:
        run(log, name, Path(folder))
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
