"""tests: what every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests import engines

# The same examples each time: a test that fails, fails for everybody.
settings.register_profile("penstock", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("penstock")


def pytest_sessionfinish() -> None:
    """End the servers that tests have started."""
    engines.ending.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PENSTOCK_DATA", beside))
    if not folder.is_dir():
        pytest.skip("needs the shared data: put it beside the repository or name it in PENSTOCK_DATA")
    return folder


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight days of history, several versions and some thousand predictions. Copy it to change it."""
    folder = tmp_path_factory.mktemp("played") / "home"
    player = Path(__file__).parent / "crash" / "player.py"
    subprocess.run([sys.executable, str(player), str(folder), "11"], check=True, capture_output=True)
    return folder
