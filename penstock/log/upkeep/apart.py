"""log: a damaged file read in a process of its own: what reads it may end the process that it is in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from penstock.log.segments import Files
from penstock.log.tables import Body, Segment
from penstock.record.codec import pack, unpack


def left(made: Segment, path: Path) -> Iterator[tuple[int, int, Body]]:
    """See `Files.left`. What came before the process ended is as right as all else."""
    words = [sys.executable, "-m", __name__, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            child.stdin.write(pack(made))
            child.stdin.close()
        while head := child.stdout.read(8):
            size = int.from_bytes(head)
            data = child.stdout.read(size)
            if len(data) == size:
                yield unpack(data, tuple[int, int, Body])


def main() -> None:
    """Write what is left of the file that is named, each group of rows behind its size."""
    made, path = unpack(sys.stdin.buffer.read(), Segment), Path(sys.argv[1])
    for one in Files(path.parent).left(made, path):
        data = pack(one)
        sys.stdout.buffer.write(len(data).to_bytes(8) + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
