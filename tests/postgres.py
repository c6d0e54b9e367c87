"""tests: a real PostgreSQL on loopback, started once when the first test asks."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.engines import ending

START_S = 20.0


def _binaries() -> Path | None:
    """The newest server's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path:
        found = [Path(on_path).resolve()]
    return found[-1].parent if found else None


def _owner() -> str | None:
    """Whom the server runs as: it refuses root."""
    if os.geteuid():
        return None
    names = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@functools.cache
def _started() -> str:
    """The server's address without a database, or why there is none."""
    binaries = _binaries()
    if binaries is None:
        return "needs PostgreSQL's server: no initdb in /usr/lib/postgresql/*/bin or on the path"
    owner = _owner()
    folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="penstock-postgres-")))
    if owner:
        shutil.chown(folder, owner)
    data = folder / "data"
    make = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "penstock",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-N",
    ]
    subprocess.run(make, check=True, capture_output=True, user=owner, cwd=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": port}
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=owner, cwd=folder,
    )  # fmt: skip
    ending.callback(_stop, server)
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        if subprocess.run(ready, check=False).returncode == 0:
            return f"postgresql://penstock@127.0.0.1:{port}"
        time.sleep(0.05)
    return "PostgreSQL did not start"


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def database(name: str) -> str:
    """The address of a fresh database; skips where there is no server."""
    psycopg = pytest.importorskip("psycopg")
    address = _started()
    if not address.startswith("postgresql://"):
        pytest.skip(address)
    with psycopg.connect(f"{address}/postgres", autocommit=True) as db:
        db.execute(f"drop database if exists {name} (force)")
        db.execute(f"create database {name}")
    return f"{address}/{name}"
