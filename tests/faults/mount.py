"""faults: a small file system of one's own: a mount that only processes started on it see, and that ends with them."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

_SCRIPT = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'


def on(folder: Path, size: str) -> list[str]:
    """What to put before a command, so that it runs with a file system of `size` (like "8m") on a folder."""
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    return ["unshare", *own, "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, size, str(folder)]


def seen_by(pid: int, folder: Path) -> Path:
    """The folder as a process sees it."""
    return Path(f"/proc/{pid}/root") / folder.relative_to("/")


@functools.cache
def missing() -> str:
    """Why nothing can be mounted here; "" where it can."""
    try:
        done = subprocess.run(
            [*on(Path("/mnt"), "1m"), "true"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a small file system cannot be mounted here: {error}"
    said = " ".join(done.stderr.split()) or f"status {done.returncode}"
    return f"a small file system cannot be mounted here: {said}" if done.returncode else ""
