"""A server that runs, seen from outside: its first answer, what its processes take, and its end. And the load on it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.log import note
from bench.serve.data import Case, requests_file
from bench.serve.servers import Place, Server, environment

HERE = Path(__file__).parent
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
START_S = 90.0


class Gone(Exception):
    """A server that did not come up, or ended; the text says why."""


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """A process and all that came of it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, new = [], [pid]
    while new:
        found += new
        new = [child for parent in new for child in parents.get(parent, ())]
    return found


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a whole tree, with those of its children that have ended."""
    return sum(sum(_cpu_s(one)) for one in tree(pid))


def _cpu_s(pid: int) -> tuple[float, float]:
    """A process's own, and of its children that have ended."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system, *ended = (int(field) * TICK_S for field in fields[11:15])
        return user + system, sum(ended)
    return 0.0, 0.0


def memory_mb(pid: int) -> float:
    """Memory of a whole tree, each shared page once (PSS)."""
    return sum(map(_memory_mb, tree(pid)))


def worker_mb(pid: int) -> float:
    """Memory of the process of a tree that took the most CPU: once it was loaded, one that answers."""
    return _memory_mb(max(tree(pid), key=_cpu_s))


def _memory_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0.0


class Running:
    """A server's processes."""

    def __init__(
        self, server: Server, place: Place, delay_s: float = 0.0, more: tuple[str, ...] = ()
    ) -> None:
        self.server, self.place = server, place
        self.rows = requests_file(
            place.folder / "rows.req", server.marker, server.where, [server.body(row) for row in place.case.rows],
            server.expected(place.case.scores),
        )  # fmt: skip
        self._said = (place.folder / "said.txt").open("w+")
        command = [*server.command(place), *more]
        began = time.monotonic()
        try:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), *command], stdout=self._said, stderr=subprocess.STDOUT,
                env=environment(place.case, delay_s), start_new_session=True, cwd=place.folder,
            )  # fmt: skip
        except OSError as error:
            raise Gone(str(error)) from None
        self.cold_start_s = self._first_answer(began)

    def _first_answer(self, began: float) -> float:
        body, why = json.dumps(self.server.body(self.place.case.rows[0])), ""
        while time.monotonic() < began + START_S:
            if self.process.poll() is not None:
                break
            status, said = self.ask(self.server.where, body, 5.0)
            if status == 200:
                return time.monotonic() - began
            if status in (400, 422) and self.server.name.startswith(
                "penstock"
            ):  # others say so while they load
                why = f"it does not take this form: {said.decode(errors='replace')[:150]}"
                break
            time.sleep(0.01)
        why = why or self.last_words()
        self.kill()
        raise Gone(why)

    def ask(self, where: str, body: str | bytes | None, timeout_s: float) -> tuple[int, bytes]:
        """One request of our own; (0, b"") without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.place.port, timeout=timeout_s)
        try:
            connection.request(
                "GET" if body is None else "POST", where, body, {"content-type": "application/json"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def last_words(self) -> str:
        """What it said last."""
        self._said.flush()
        lines = [
            line
            for line in Path(self._said.name).read_text(errors="replace").splitlines()
            if line.strip(" ;\r")
        ]
        telling = [line for line in lines if "Error:" in line] or lines
        return telling[-1].strip()[:200] if telling else "it ended without a word"

    def stop(self, patience_s: float = 15.0) -> float | None:
        """Ask it to end; how long it took, or None where it had to be killed."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience_s)
            took: float | None = time.monotonic() - began
        except subprocess.TimeoutExpired:
            took = None
        self.kill()
        return took

    def kill(self) -> None:
        """End all its processes."""
        for pid in tree(self.process.pid):  # some make a session of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the session that we started it in
        self.process.wait()
        self._said.close()


@contextlib.contextmanager
def running(
    server: Server, case: Case, folder: Path, delay_s: float = 0.0, more: tuple[str, ...] = ()
) -> Iterator[Running]:
    """A server for a while, in a folder of its own."""
    with tempfile.TemporaryDirectory(
        prefix=f"{server.name}-", dir=folder, ignore_cleanup_errors=True
    ) as made:
        one = Running(server, Place(Path(made), case, free_port(), free_port()), delay_s, more)
        try:
            yield one
        finally:
            if one.process.poll() is None:
                one.stop()
            else:
                one.kill()


def compiled(folder: Path, name: str = "load") -> Path:
    """A client, made by the system's C compiler."""
    made = folder / name
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-o", str(made), str(HERE / f"{name}.c"), "-lm"], check=True)
    return made


def start_load(
    client: Path,
    one: Running,
    connections: int,
    seconds: float,
    rate: float = 0.0,
    timeout_s: float = 10.0,
    rows: Path | None = None,
) -> subprocess.Popen[str]:
    """Begin to load a server; see load.c."""
    words = [one.place.port, rows or one.rows, connections, seconds, rate, timeout_s]
    command = ["taskset", "-c", str(LOAD_CORE), str(client), *(str(word) for word in words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a load came to."""
    said, _ = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit("bench: the load client failed")
    found: dict[str, Any] = json.loads(said)
    return found


def load(
    client: Path, one: Running, connections: int, seconds: float, rate: float = 0.0, **more: Any
) -> dict[str, Any]:
    """Load a server, and what its processes took meanwhile."""
    before = cpu_s(one.process.pid)
    found = result(start_load(client, one, connections, seconds, rate, **more))
    found["server_cpu_s"] = cpu_s(one.process.pid) - before
    if found["wrong"]:
        note(f"{one.server.name}: {found['wrong']} wrong answers, the first: {found['first_wrong'][:200]}")
    return found
