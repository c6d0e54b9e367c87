"""client: a load is charged for every stall, checks every answer, and says what was refused, lost and never sent."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli import main
from penstock.client import AsyncClient
from penstock.client.load.measure import Report, Samples, Slice, percentiles, plot
from penstock.client.load.rows import Asked, made, read
from penstock.client.load.run import Plan, loop, run, wrong
from penstock.client.wire import Reply, address
from penstock.record.errors import NotFound, Refused
from tests.unit.client.planted import Door, Planted

ROW = b'{"who": "a", "x": 1.5, "n": 2, "flag": null, "score": 0.25}'


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """The server."""
    one = Door()
    yield one
    one.close()


@pytest.fixture
def front(door: Door) -> Iterator[Planted]:
    """The way to it, which fails as told."""
    one = Planted(door.port)
    yield one
    one.close()


def said(name: str, n: int, data: str) -> str:
    """An answer with one output."""
    output = f'{{"name": "{name}", "datatype": "FP64", "shape": [{n}], "data": [{data}]}}'
    return f'{{"model_name": "m", "outputs": [{output}]}}'


def loaded(front: Planted, plan: Plan, asked: list[Asked] | None = None) -> Report:
    """What a load came to."""
    asked = asked or read("m", [ROW], "score")
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run(address(front.url), asked, plan, lambda done, total: None))


def test_the_open_loop_sends_what_is_due(front: Planted) -> None:
    """As many requests as the rate says, however long each takes, all answered and right."""
    report = loaded(front, Plan(0.5, 100.0, 4))
    assert (report.due, report.answered, report.latency_ms.n) == (50, 50, 50)
    assert report.goodput_per_s == 100.0 and not (report.refused or report.failed or report.wrong)
    assert sum(one.answered for one in report.over_time) == 50


def test_a_stall_is_charged_to_all_that_were_due(front: Planted) -> None:
    """One answer of 0.4 s on the only connection delays the forty that were due meanwhile, and their latencies say so;
    counted from when they were sent, one alone would be slow."""
    front.faults = [""] * 10 + [0.4]
    report = loaded(front, Plan(1.0, 100.0, 1))
    slow = sum(one.answered for one in report.over_time if (one.p50_ms or 0) > 30)
    assert report.answered == 100 and slow >= 25
    assert report.latency_ms.p90 is not None and report.latency_ms.p90 > 200
    assert report.own_late_ms.p99 is not None and report.own_late_ms.p99 < 100


def test_the_closed_loop_waits(front: Planted) -> None:
    """Each connection sends when it is answered: what is slow is asked less often."""
    front.faults = [0.1] * 100
    report = loaded(front, Plan(0.5, 0.0, 2))
    assert 6 <= report.answered == report.due <= 12 and front.connections == 2


def test_what_is_not_an_answer(front: Planted) -> None:
    """Refusals by status and code, lost answers, late ones: each is counted, none as goodput."""
    front.faults = [(503, {}), (429, {"retry-after": "1"}), "drop", "half", 0.5]
    report = loaded(front, Plan(0.2, 50.0, 4, timeout_s=0.3))
    assert report.refused == {"503 http_503": 1, "429 http_429": 1}
    assert report.failed == {"lost": 2, "late": 1} and report.answered == 5 and report.refusal_ms.n == 2
    assert sum(one.other for one in report.over_time) == 5


def test_what_could_not_be_sent_in_time(front: Planted) -> None:
    """Requests whose deadline goes by before a connection is free are not forgotten."""
    front.faults = [0.3] * 100
    report = loaded(front, Plan(0.3, 100.0, 1, timeout_s=0.2))
    assert set(report.failed) <= {"late", "unsent"} and sum(report.failed.values()) == report.due == 30


def test_wrong_scores_are_found(front: Planted) -> None:
    """An answer with another score than expected is wrong, by more than the tolerance."""
    asked = read("m", [ROW, ROW.replace(b"0.25", b"0.26")], "score")
    assert loaded(front, Plan(0.2, 50.0, 2), asked).wrong == {"score": 5}
    assert loaded(front, Plan(0.2, 50.0, 2, tolerance=0.02), asked).answered == 10


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("[]", "no inference"),
        ('{"model_name": "m", "outputs": []}', "shape"),
        (said("score", 2, "1, 2"), "shape"),
        (said("score", 2, "1"), "shape"),
        (said("score", 1, "null"), "no score"),
        (said("other", 1, "1"), "no score"),
        (said("score", 1, "1"), ""),
    ],
)  # fmt: skip
def test_what_an_answer_must_be(body: str, why: str) -> None:
    """One row, and a number as its score."""
    (asked,) = read("m", [b'{"x": 1}'], "")
    assert wrong(Reply(200, {}, body.encode()), asked, 0.0) == why


def test_rows_of_a_file() -> None:
    """A line a row; the expected score is taken out and not sent; a line that is none is named."""
    one, two = read("m", [b'{"x": 1, "s": 0.5}\n', b"\n", b'{"x": 2, "s": null}\n'], "s")
    assert (one.expected, two.expected) == (0.5, None) and b'"s"' not in one.request.body
    for line in (b"[1]", b'{"x": 1}', b'{"x": 1, "s": "high"}'):
        with pytest.raises(Refused, match="line 2"):
            read("m", [b'{"x": 1, "s": 1}', line], "s")
    with pytest.raises(NotFound):
        read("m", [], "")


def test_rows_made_up(front: Planted) -> None:
    """Every column of the metadata with values of its kind, the same for the same seed."""

    async def make(seed: int) -> list[Asked]:
        async with AsyncClient(front.url) as client:
            return await made(client, "m", 5, random.Random(seed))

    asked = asyncio.run(make(1))
    (tensors,) = {
        tuple((t["name"], t["datatype"]) for t in json.loads(a.request.body)["inputs"]) for a in asked
    }
    assert dict(tensors) == {
        "who": "BYTES",
        "x": "FP64",
        "n": "INT64",
        "flag": "BOOL",
        "ask_id": "BYTES",
        "at": "BYTES",
    }
    assert asyncio.run(make(1)) == asked != asyncio.run(make(2))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_exact(values: list[float]) -> None:
    """So many per cent are not above, and no smaller value would do."""
    found = percentiles(values)
    for share, mark in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (0.999, found.p999)):
        assert mark is not None and mark in values
        assert sum(value <= mark for value in values) >= share * len(values)
        assert sum(value < mark for value in values) < math.ceil(share * len(values))
    assert found.most == max(values)


def test_the_plot() -> None:
    """A median where it belongs, the way up to the 99th percentile, a mark where something was not good."""
    slices = [Slice(0.0, 5, 0, 1.0, 1.0), Slice(1.0, 0, 2, None, None), Slice(2.0, 5, 0, 1.0, 128.0)]
    lines = plot(slices)
    assert [line.partition("|")[2] for line in lines[:8]] == ["  :"] * 7 + ["o o"]
    assert lines[0].lstrip().startswith("128 ms") and lines[9].endswith("| x") and "3 s" in lines[10]
    assert plot(slices[1:2]) == []


def test_the_verb(front: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people a table, a plot and a line; for machines the report; 1 when an answer was wrong."""
    rows = tmp_path / "rows.ndjson"
    rows.write_bytes(ROW + b"\n" + ROW.replace(b"0.25", b"0.75") + b"\n")
    words = ["load", front.url, "--model", "m", "--rate", "40", "--for", "500ms"]
    assert main([*words, "--rows", str(rows), "--expect", "score"]) == 1
    told = capsys.readouterr().out
    assert "wrong: score" in told and "o median" in told
    assert "load: 20.0 good answers a second of 40.0 due" in told
    assert main([*words, "--json", "--closed", "--connections", "1"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["answered"] == report["due"] > 0 and report["latency_ms"]["p50"] > 0


@pytest.mark.parametrize(
    "words",
    [
        ["--rate", "0"], ["--for", "soon"], ["--for", "0s"], ["--connections", "0"], ["--connections", "5000"],
        ["--expect", "score"], ["--rows", "nothing.ndjson"], ["--key", "nothing"],
    ],
)  # fmt: skip
def test_the_verb_refuses(front: Planted, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What it cannot do, it says in a sentence, with status 2."""
    assert main(["load", front.url, "--model", "m", "--for", "100ms", *words]) == 2
    assert capsys.readouterr().err.startswith("penstock: ")


def test_the_verb_with_nobody_there(front: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that cannot be asked what it takes is not available: status 3."""
    front.close()
    assert main(["load", front.url, "--model", "m"]) == 3
    assert "unreachable" in capsys.readouterr().err


def test_samples_are_few_bytes() -> None:
    """A million requests measured take less than 50 bytes each."""
    samples = Samples()
    for i in range(10_000):
        samples.right(i / 1000, 0.002)
        samples.own_late_ms.append(0.1)
    assert sum(one.buffer_info()[1] * one.itemsize for one in (samples.due_s, samples.took_ms)) / 10_000 < 50
