"""tests: what every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time: a test that fails, fails for everybody.
settings.register_profile("penstock", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PENSTOCK_DATA", beside))
    if not folder.is_dir():
        pytest.skip("needs the shared data: put it beside the repository or name it in PENSTOCK_DATA")
    return folder
