"""Fast forms beside the models that they stand for, in this process, on one thread. `make bench-forms`, or
`ARGS=--json`.

A linear model, histogram boosting and a forest of scikit-learn, XGBoost and LightGBM, of 100 trees each, fitted to
2,000 rows of 30 columns; each alone, and behind a SimpleImputer and a StandardScaler. For the model as it was fitted
and for every form that it has here: microseconds a row when it is asked about one, and about 32 at once; the least of
several rounds in turn, for whatever else the machine does only adds to it. Its parity: how far its answers lie from the
model's on 10,000 rows that neither has seen, a tenth of their values missing where the model takes that. And which form
a training takes. Last, what a fresh process that scores by a form takes: seconds to load it, and memory.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import xgboost
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from bench.log import Figure, note
from penstock.cli import show
from penstock.model import forms
from penstock.model.brought import brought
from penstock.model.fit import BOUND, formed
from penstock.model.pack import Model

WIDTH, FITTED, HELD_OUT, TREES = 30, 2_000, 10_000, 100
CALL_S = 0.02  # so long one way is asked in one round, at least once
LAST: dict[str, Callable[[], Any]] = {
    "linear": lambda: LogisticRegression(solver="newton-cholesky"),
    "hist": lambda: HistGradientBoostingClassifier(max_iter=TREES, random_state=1),
    "forest": lambda: RandomForestClassifier(TREES, random_state=1),
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=TREES, n_jobs=1),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1),
}
ORIGINAL = "original"
FRESH = """
import sys, time
from pathlib import Path
import numpy as np
from penstock.model import forms
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
data, before, start = Path(sys.argv[1]).read_bytes(), held(), time.perf_counter()
forms.load(data)(np.zeros((1, int(sys.argv[2]))))
print(time.perf_counter() - start, (held() - before) / 1e6)
"""


class Case(msgspec.Struct):
    """A model, alone or behind steps: how each way scores, how far each form is off, which one is taken; and the
    seconds of one call, about one row and about 32, in each way's best round."""

    name: str
    ways: dict[str, Callable[[Any], Any]]
    forms: dict[str, bytes]
    differences: dict[str, float]
    taken: str
    one_s: dict[str, float] = {}
    many_s: dict[str, float] = {}


def rows(seed: int, n: int, *, holes: bool) -> Any:
    """Rows of numbers of several sizes, a tenth of them missing if there are holes."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(n, WIDTH)) * 10.0 ** chance.integers(-2, 3, WIDTH)
    x[holes & (chance.random(x.shape) < 0.1)] = np.nan
    return x


def prepared(name: str, make: Callable[[], Any], *, steps: bool) -> Case:
    """A case, fitted, with all its forms, and the one that a training takes."""
    holes = steps or name != "linear"
    x, chance = rows(1, FITTED, holes=holes), np.random.default_rng(2)
    size = np.nan_to_num(x) / np.nanstd(x, axis=0)
    y = (size @ chance.normal(size=WIDTH) / 3 + chance.normal(size=FITTED) > 0).astype(int)
    last = make()
    fitted = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), last) if steps else last
    fitted.fit(x, y)
    kept = brought(fitted, WIDTH) or fitted
    made = {forms.kind_of(data): data for data in forms.make(kept, "binary", WIDTH)}
    ways = {ORIGINAL: fitted.predict_proba, **{kind: forms.load(data) for kind, data in made.items()}}
    x = rows(3, HELD_OUT, holes=holes)
    said = fitted.predict_proba(x)[:, -1]
    differences = {kind: float(np.abs(ways[kind](x) - said).max()) for kind in made}
    held_out = [[None if np.isnan(one) else one for one in row] for row in x.tolist()]
    found = formed(Model("f" * 64, "binary", ["number"] * WIDTH, kept, None), held_out)
    taken = found.kind if found else ORIGINAL
    return Case(f"{name}_steps" if steps else name, ways, made, differences, taken)


def call_s(way: Callable[[Any], Any], x: Any) -> float:
    """Seconds of one call: how many fit into CALL_S."""
    start, calls = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < CALL_S or not calls:
        way(x)
        calls += 1
    return took / calls


def measure(case: Case, rounds: int) -> None:
    """All ways of a case in turn, round by round."""
    many = rows(4, 32, holes=case.name != "linear")
    for _ in range(rounds):
        for kind, way in case.ways.items():
            for best, x in ((case.one_s, many[:1]), (case.many_s, many)):
                best[kind] = min(best.get(kind, float("inf")), call_s(way, x))


def fresh(data: bytes) -> list[float]:
    """Seconds until a form has scored in a process of its own that has loaded nothing for it, and megabytes."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        command = [sys.executable, "-c", FRESH, file.name, str(WIDTH)]
        done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return min([float(one) for one in each.stdout.split()] for each in done)


def figures(cases: list[Case]) -> list[Figure]:
    """What must hold of each case."""
    made = []
    for one in cases:
        quickest = min(s for kind, s in one.many_s.items() if one.differences.get(kind, 0.0) <= BOUND)
        if not one.name.startswith("linear"):
            times = one.one_s[ORIGINAL] / one.one_s[one.taken]
            made.append(Figure(f"forms_{one.name}_times_original_alone", times, ">=5"))
        made += [
            Figure(f"forms_{one.name}_over_quickest_in_32", one.many_s[one.taken] / quickest, "<=1.1"),
            Figure(f"forms_{one.name}_difference", one.differences.get(one.taken), f"<={BOUND}"),
        ]
    return made


def parse() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/forms.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", default=",".join(LAST), metavar="NAME,...", help=f"of {', '.join(LAST)}")
    add("--rounds", type=int, default=15, metavar="N")
    add("--json", action="store_true", help="the figures as one JSON object, no table")
    return parser.parse_args()


def main() -> int:
    """Measure, print the tables and the figures."""
    given = parse()
    cases, loaded = [], []
    with threadpool_limits(1):
        for name in given.only.split(","):
            for steps in (False, True):
                note(f"{name}{' behind steps' if steps else ''}")
                case = prepared(name, LAST[name], steps=steps)
                measure(case, given.rounds)
                cases.append(case)
                if steps:
                    loaded += [
                        [name, kind, len(data) / 1e6, *fresh(data)] for kind, data in case.forms.items()
                    ]
    found = figures(cases)
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in found})
        return 0 if all(one.ok for one in found) else 1
    show.table(
        "microseconds a row, asked about one and about 32 at once", ["model", "way", "one", "in 32", "parity", "taken"],
        [
            [
                one.name, kind, one.one_s[kind] * 1e6, one.many_s[kind] / 32 * 1e6,
                f"{one.differences[kind]:.0e}" if kind in one.differences else "", "*" if kind == one.taken else "",
            ]
            for one in cases for kind in one.ways
        ],
    )  # fmt: skip
    show.table("a fresh process", ["model", "form", "form MB", "to load s", "grows by MB"], loaded)
    for one in found:
        print(one)
    return 0 if all(one.ok for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
