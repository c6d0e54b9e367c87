"""loop: four months of real flights through the whole loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "examples" / "flights"


def test_four_months_of_flights(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are trained and shipped by evidence, beat the carrier's share, verify and rebuild to the bit."""
    pytest.importorskip("polars", reason="polars reads the flights and is not installed")
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("run", None)
    import run

    from penstock.app.home import open_home

    home = open_home(tmp_path, create=True)
    played, seconds = run.play(home, shared_data, 4, quiet=True)
    figures = {name: value for name, value, *_ in run.measure(home, played, seconds, whole=False, quiet=True)}
    home.log.close()
    print(figures)
    assert figures["events"] > 100_000
    assert figures["versions"] >= 3
    assert figures["shipped"] >= 2
    assert figures["auc_difference_low"] > 0.05
    assert figures["predictions_verified"] > 25_000
    assert figures["unequal"] == 0
    assert figures["rebuild_same"] == 1
