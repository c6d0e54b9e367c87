"""app: what a model's program is begun by: bound to who began it, without a core to drop, it becomes the program.

It is run by its path, and imports nothing of ours, so that it costs next to nothing.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def bound() -> None:
    """End with who began this process, whatever it does then (on Linux), and leave no core behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            PR_SET_PDEATHSIG, signal.SIGKILL
        )  # a model that hangs reads no end of its input
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    bound()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as Python found it, for who comes after
    try:
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the model's program, as its version keeps it
    except OSError as error:
        sys.exit(f"It cannot be run: {error.strerror}.")
