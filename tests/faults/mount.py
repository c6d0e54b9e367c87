"""faults: a small file system of one's own: a mount that only processes started on it see, and that ends with them."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

_MAKE = {
    "tmpfs": 'mount -t tmpfs -o size="$0" tmpfs "$1"',
    "ext4": 'truncate -s "$0" "$1.img" && mkfs.ext4 -q -m 0 -b 4096 "$1.img" && mount -o loop "$1.img" "$1"',
}
"""File systems: one in memory, and one of a disk's own kind in a file beside the folder. Its blocks are as large as
memory's pages: with smaller ones SQLite cannot reserve its shared memory, and dies of SIGBUS when the disk is full."""


def on(folder: Path, size: str, kind: str = "tmpfs") -> list[str]:
    """What to put before a command, so that it runs with a file system of `size` (like "8m") on a folder."""
    script = f'{_MAKE[kind]} && shift && exec "$@"'
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    return ["unshare", *own, "--mount", "--propagation", "private", "sh", "-c", script, size, str(folder)]


def seen_by(pid: int, folder: Path) -> Path:
    """The folder as a process sees it."""
    return Path(f"/proc/{pid}/root") / folder.relative_to("/")


@functools.cache
def missing(kind: str = "tmpfs") -> str:
    """Why nothing of a kind can be mounted here; "" where it can."""
    with tempfile.TemporaryDirectory(prefix="penstock-mount-") as made:
        folder = Path(made) / "on"
        folder.mkdir()
        try:
            done = subprocess.run(
                [*on(folder, "2m", kind), "true"], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"a small {kind} cannot be mounted here: {error}"
    said = " ".join(done.stderr.split()) or f"status {done.returncode}"
    return f"a small {kind} cannot be mounted here: {said}" if done.returncode else ""
