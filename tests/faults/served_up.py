"""faults: the command line, its serving processes spoiled: `-m tests.faults.served_up BUG up ...`."""

from __future__ import annotations

import sys

from penstock.app.servers import keeper
from penstock.cli import main

if __name__ == "__main__":
    planted = sys.argv.pop(1)
    if planted != "-":
        keeper.COMMAND = (sys.executable, "-m", "tests.faults.served_child", planted)
    sys.exit(main())
