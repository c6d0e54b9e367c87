"""loop: the demo tells its whole story."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

STORY = (
    r"buy v1 is champion",
    r"buy v2 gate: ship",
    r"buy v2 is shadow",
    r"buy v2 is canary for 20 %",
    r"buy v2 is champion",
    r"buy v3 gate: block",
    r"buy v4 gate: ship",
    r"buy v4 is rolled back\. Live outcomes say it is worse",
    r'buy alert raised: missing\("previous_page", "6h"\) < 0\.05',
    r'buy alert cleared: missing\("previous_page", "6h"\) < 0\.05',
    r'buy alert raised: drift\("log_price", "1d"\)',
    r"buy v5 gate: ship",
    r"buy v5 is champion",
    r'buy alert cleared: drift\("log_price", "1d"\)',
    r'fraud alert raised: rate\("positive"\) < 0\.1',
    r'fraud alert cleared: rate\("positive"\) < 0\.1',
)


def test_the_story_is_told_in_order(tmp_path: Path) -> None:
    """Champion, canary, block, rollback, faults seen, drift cured; and every count is above zero."""
    command = [sys.executable, "-m", "penstock.cli", "demo", "--exit", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = re.sub(r"\s+", " ", done.stdout)
    place = 0
    for chapter in STORY:
        found = re.compile(chapter).search(told, place)
        assert found is not None, (chapter, done.stdout)
        place = found.start()
    counts = [int(n) for n in re.findall(r"(\d+) \w", done.stdout.splitlines()[-1])]
    assert len(counts) == 8 and min(counts) > 0, done.stdout.splitlines()[-1]
