"""faults: a whole pipeline (requests, training, gate, releases) that dies between two of its effects."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from penstock.app.digest import digests
from penstock.app.home import open_home
from penstock.log.crash import Point
from penstock.record.errors import PenstockError
from tests.crash import player
from tests.faults.finding import Plan
from tests.faults.process import KILLED, Died, Target, die_at, run, side_by_side

MODEL = "agree"
SEED = 11
STAGES = ("predict.agree", "outcome.agree", "monitor.agree", "train.agree", "gate", "release.agree")
TARGETS = [
    Target(Point.EFFECT),
    Target(Point.RESULT, 2),
    Target(Point.STEPPED, 2, "gate"),  # a verdict stands, the release does not
    *(Target(point, 3, stage) for stage in STAGES for point in (Point.STEP, Point.STEPPED)),
]


def play(home: str, target: Target | None) -> None:
    """Play the history on from where the home stands."""
    die_at(target)
    with contextlib.redirect_stdout(io.StringIO()):
        player.main(home, SEED, planted=False)


def digest(home: Path) -> dict[str, str]:
    """The digests of what a home's log says."""
    log = open_home(home).log
    try:
        return digests(log, [MODEL])
    finally:
        log.close()


def at_point(case: tuple[Target, dict[str, str]]) -> Died:
    """Die at a target, play on to the end, compare with a home that nothing happened to."""
    target, calm = case
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        home = Path(folder) / "home"
        first = run(play, str(home), target)
        wrong = [] if run(play, str(home), None) == 0 else ["the next process failed"]
        try:
            rough = digest(home)
        except PenstockError as error:
            rough = {"all": str(error)}
    wrong += [f"the {part} differ" for part in rough if rough[part] != calm.get(part)]
    return Died(target, first == KILLED, wrong)


def reached(plan: Plan) -> list[Died]:
    """Each of the app's points; at a small scale one target a point."""
    targets = TARGETS if plan.scale >= 0.5 else TARGETS[:3]
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        home = Path(folder) / "home"
        if run(play, str(home), None):
            raise RuntimeError("the pipeline does not play")
        calm = digest(home)
    return list(side_by_side(at_point, [(target, calm) for target in targets]))
