"""faults: the command line, its serving processes spoiled: `-m tests.faults.served_up BUG up ...`."""

from __future__ import annotations

import sys

from penstock.app.servers import process
from penstock.cli import main
from tests.faults.served_child import BUGS

if __name__ == "__main__":
    planted = sys.argv.pop(1)
    if planted != "-":
        process.begin = BUGS[planted]
    sys.exit(main())
