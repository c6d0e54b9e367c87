"""Plain Apache Kafka brokers on loopback (KRaft mode), for tests and for developers: `make kafka`.

The jars come from Maven Central by the pom beside this file, once, into a cache folder outside the tree.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
VERSION = os.environ.get("PENSTOCK_KAFKA") or "4.1.0"
CLUSTER = "cGVuc3RvY2stdGVzdC0wMQ"
READY_S = 60.0
FETCH_S = 180.0
HEAP = "-Xmx512m"
PORTS = range(20_000, 32_000)
"""Below those that systems give to connections: else one could take a broker's port while it is down."""


class Missing(Exception):
    """What is needed to run a broker is not here; the message says what."""


class Down(Exception):
    """A broker ended, or did not answer in time; the message says what it noted last."""


def jars(version: str = VERSION) -> Path:
    """The folder of a broker's jars, fetched when it is not there yet; raises Missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "penstock" / "kafka" / version
    if shutil.which("java") is None:
        raise Missing("Java is not installed (Java 17 runs a broker)")
    if any(folder.glob("kafka_*.jar")):
        return folder
    if shutil.which("mvn") is None:
        raise Missing("Maven is not installed, and the broker's jars are not in the cache")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:  # one fetches, the others wait and find it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(folder.glob("kafka_*.jar")):
            _fetch(folder, version)
    return folder


def _fetch(folder: Path, version: str) -> None:
    fresh = folder.with_name(f"{version}.new")
    shutil.rmtree(fresh, ignore_errors=True)  # of a fetch that was ended
    command = [
        "mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), f"-Dkafka.version={version}",
        "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
        "-DincludeScope=runtime", f"-DoutputDirectory={fresh}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=FETCH_S)
    except subprocess.TimeoutExpired:
        raise Missing(f"Maven did not fetch the broker's jars in {FETCH_S:.0f} s") from None
    if done.returncode:
        raise Missing("Maven could not fetch the broker's jars")
    fresh.rename(folder)


def free_ports(n: int) -> list[int]:
    """Ports of loopback that nobody listens on now, each given once by this process."""
    ports: list[int] = []
    while len(ports) < n:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError):
            if port not in _given:
                socket.create_server(("127.0.0.1", port)).close()
                _given.add(port)
                ports.append(port)
    return ports


_given: set[int] = set()


class Cluster:
    """One or several nodes, each broker and controller at once; each may be killed and started again."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        *,
        version: str = VERSION,
        port: int = 0,
        proxied: bool = False,
        more: dict[str, str] | None = None,
    ) -> None:
        """`proxied`: a second listener on `inner` that tells its clients to come by `outer`, where somebody
        else listens. `more`: settings of the brokers, before all others; those of listeners are added to."""
        self.jars = jars(version)
        self.inner, self.outer = (free_ports(nodes), free_ports(nodes)) if proxied else ([], [])
        ports = free_ports(2 * nodes)
        self.ports = [port or ports[0], *ports[1:nodes]]
        voters = ",".join(f"{i + 1}@127.0.0.1:{at}" for i, at in enumerate(ports[nodes:]))
        self.folders = [folder / f"node{i + 1}" for i in range(nodes)]
        self.running: list[subprocess.Popen[bytes] | None] = [None] * nodes
        copies = min(3, nodes)
        for i, home in enumerate(self.folders):
            home.mkdir(parents=True, exist_ok=True)
            lines: dict[str, str] = {
                "process.roles": "broker,controller",
                "node.id": str(i + 1),
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://127.0.0.1:{self.ports[i]},CONTROLLER://127.0.0.1:{ports[nodes + i]}",
                "controller.listener.names": "CONTROLLER",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.ports[i]}",
                "log.dirs": str(home / "data"),
                "offsets.topic.replication.factor": str(copies),
                "offsets.topic.num.partitions": "3",
                "group.initial.rebalance.delay.ms": "0",
                "group.min.session.timeout.ms": "1000",
                "min.insync.replicas": str(max(1, copies - 1)),
                "auto.create.topics.enable": "false",
                "broker.session.timeout.ms": "3000",  # a killed one is missed sooner than after nine seconds
                "broker.heartbeat.interval.ms": "500",
            }
            if proxied:
                lines["listeners"] += f",PROXIED://127.0.0.1:{self.inner[i]}"
                lines["advertised.listeners"] += f",PROXIED://127.0.0.1:{self.outer[i]}"
                lines["listener.security.protocol.map"] = ",".join(
                    f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", "PROXIED")
                )
            for key, value in (more or {}).items():
                lines[key] = f"{lines[key]},{value}" if key.endswith("listeners") else value
            config = home / "server.properties"
            config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
            if not (home / "data").exists():
                self._java(home, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(config)).wait()

    @property
    def address(self) -> str:
        """The brokers as a client wants them."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def _java(self, home: Path, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["java", HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{self.jars}/*", main]
        with (home / "notes.txt").open("ab") as notes:
            return subprocess.Popen(
                [*command, *arguments], stdout=notes, stderr=notes, start_new_session=True
            )

    def start(self, only: Sequence[int] | None = None) -> Cluster:
        """Start the nodes that do not run, and wait until each takes connections and knows a leader."""
        chosen = range(len(self.folders)) if only is None else only
        for i in chosen:
            if self.running[i] is None:
                config = str(self.folders[i] / "server.properties")
                self.running[i] = self._java(self.folders[i], "kafka.Kafka", config)
        for i in chosen:
            self._wait(i, sum(one is not None for one in self.running))
        return self

    def _wait(self, node: int, nodes: int) -> None:
        """Until a node answers a client and knows the others. Raises Down when it ended or stayed silent."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        deadline = time.monotonic() + READY_S
        process = self.running[node]
        while time.monotonic() < deadline and process is not None and process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.ports[node]), 1):
                    pass
                admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.ports[node]}", "log_level": 0})
                if len(admin.list_topics(timeout=5).brokers) >= nodes:
                    return
            except (OSError, KafkaException):
                time.sleep(0.1)
        lines = (self.folders[node] / "notes.txt").read_text(errors="replace").splitlines() or ["nothing"]
        raise Down(f"a broker did not start; it said last: {lines[-1]}")

    def kill(self, node: int) -> None:
        """End a node as a power switch does."""
        process, self.running[node] = self.running[node], None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    @property
    def proxied(self) -> str:
        """The brokers as a client wants them that comes by the proxies."""
        return ",".join(f"127.0.0.1:{port}" for port in self.outer)

    def stop(self) -> None:
        """End every node."""
        for node in range(len(self.running)):
            self.kill(node)


def main() -> int:
    """Run one broker until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="Run a plain Kafka broker on loopback, in a temporary folder."
    )
    parser.add_argument("--port", type=int, default=9092)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        try:
            cluster = Cluster(Path(folder), port=given.port).start()
        except Missing as error:
            print(f"No broker: {error}.", file=sys.stderr)
            return 1
        print(f"kafka://{cluster.address} (Ctrl-C ends it)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
