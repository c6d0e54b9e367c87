"""bench: the client in C counts what it must: right, wrong, refused, lost, late, and every stall."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.serve.data import requests_file
from tests.unit.client.planted import Door, Planted

MARKER = '"name":"score","datatype":"FP64","shape":[1],"data":'
BODY = {"inputs": [{"name": "who", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, compiled."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        pytest.skip("needs a C compiler")
    made = tmp_path_factory.mktemp("load") / "load"
    source = Path(__file__).parents[3] / "bench" / "serve" / "load.c"
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(made), str(source), "-lm"], check=True
    )
    return made


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


def load(
    client: Path,
    front: Planted,
    folder: Path,
    *plan: float,
    expected: tuple[float, ...] = (0.25,),
    marker: str = MARKER,
) -> dict[str, Any]:
    """A load of so many connections, seconds, requests a second, with such a time limit."""
    rows = requests_file(folder / "rows.req", marker, "/v2/models/m/infer", [BODY] * len(expected), expected)
    connections, *rest = plan
    command = [
        str(client),
        front.url.rpartition(":")[2],
        str(rows),
        str(int(connections)),
        *(str(one) for one in rest),
    ]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    )
    assert found["due"] == found["right"] + found["wrong"] + found["lost"] + found["nobody"] + found[
        "late"
    ] + sum(n for status, n in found["status"].items() if status != "200")
    return found


def test_right_and_wrong(client: Path, front: Planted, tmp_path: Path) -> None:
    """Each answer is compared with what its request must get; the first that is wrong is shown."""
    found = load(client, front, tmp_path, 2, 0.5, 40, 2, expected=(0.25, 0.26))
    assert (found["due"], found["right"], found["wrong"]) == (20, 10, 10) and "score" in found["first_wrong"]
    assert load(client, front, tmp_path, 2, 0.2, 40, 2, marker='"nothing"')["right"] == 0


def test_what_is_not_an_answer(client: Path, front: Planted, tmp_path: Path) -> None:
    """Refusals by status, connections that end, answers that come too late."""
    front.faults = [(503, {"retry-after": "1"}), (429, {}), "drop", "half", 0.6, "garbage"]
    found = load(client, front, tmp_path, 3, 0.4, 30, 0.5)
    assert found["status"] == {"200": 6, "429": 1, "503": 1} and found["retry_after"] == 1
    assert (found["right"], found["lost"], found["late"]) == (6, 3, 1) and found["refused_ms"]["n"] == 2


def test_a_stall_is_charged(client: Path, front: Planted, tmp_path: Path) -> None:
    """In the open loop latency counts from when a request was due; the closed one waits instead."""
    front.faults = [""] * 10 + [0.4]
    found = load(client, front, tmp_path, 1, 1.0, 100, 5)
    assert found["right"] == 100 and found["ms"]["p90"] > 200
    front.faults = [0.1] * 100
    assert 6 <= load(client, front, tmp_path, 2, 0.5, 0, 5)["right"] <= 12


def test_chunks_and_ends(client: Path, front: Planted, tmp_path: Path) -> None:
    """A body in chunks is put together, even within a number; a connection that is to end is not used again."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [b'{"score": 0.2', b"5}"]
    whole = head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    last = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{"score": 0.25}'
    front.faults = [whole, last] * 10
    found = load(client, front, tmp_path, 1, 0.2, 50, 2, marker='"score":')
    assert found["right"] == 10 and front.connections == 5


def test_nobody_there(client: Path, front: Planted, tmp_path: Path) -> None:
    """A connection that is refused is told apart from one that was lost."""
    front.close()
    found = load(client, front, tmp_path, 2, 0.2, 50, 0.5)
    assert found["nobody"] + found["late"] == 10 and found["nobody"] and not found["lost"]
