"""Replay the flights of 2013 through the whole loop, and hold the result against its targets.

python examples/flights/run.py --data DIR [--months 4] [--home DIR] [--log kafka://HOST:PORT] [--json]
python examples/flights/run.py --data DIR --months 2 --log kafka://HOST:PORT --processes 3 --kill-every 10
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import apart
import msgspec
import numpy as np
from history import history

from penstock.app.digest import digests
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import Plan, load
from penstock.app.replay import Played, replay
from penstock.app.system import System
from penstock.app.worker import Ahead, rebuild
from penstock.cli import show
from penstock.dataset.rows import sealed
from penstock.feature import FeatureSet
from penstock.gate.paired import Paired, compare_auc
from penstock.model.fit import answers, fit_rows
from penstock.record.decisions import Outcome, Prediction, outcomes, predictions, read
from penstock.release.registry import registry
from penstock.stage import every

HERE = Path(__file__).parent

MODEL = "late"
LEVEL = 0.95
Figure = tuple[str, float, str, bool]


def main(argv: list[str] | None = None) -> int:
    """Replay, verify, rebuild, and print the figures; 1 when one is short."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="flights.parquet, weather.csv, ..."
    )
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="keep the log here (default: a temporary folder)"
    )
    parser.add_argument("--log", default="", metavar="URL", help="kafka://HOST:PORT[/PREFIX]")
    parser.add_argument(
        "--log-settings", default="", metavar="FILE", help="KEY=VALUE lines for the connection"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shares", type=int, default=0, help="divide answering (default: one a process)")
    parser.add_argument(
        "--processes",
        type=int,
        default=0,
        metavar="N",
        help="run the stages in N homes, apart from this process",
    )
    parser.add_argument(
        "--each-alone",
        action="store_true",
        help="with --processes: a process for every kind of stage in each home",
    )
    parser.add_argument("--kill-every", type=float, default=0, metavar="S", help="with --processes: kill one")
    parser.add_argument("--seed", type=int, default=7, help="of the choice whom to kill")
    given = parser.parse_args(argv)
    if given.processes:
        return in_processes(given)
    with contextlib.ExitStack() as stack:
        folder = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flights-")))
        home = open_home(folder, create=True, log=given.log, settings=given.log_settings)
        stack.callback(home.log.close)
        played, seconds = play(home, given.data, given.months, quiet=given.json, shares=given.shares or 1)
        figures = measure(home, played, seconds, whole=given.months == 12, quiet=given.json)
        if given.json:
            show.as_json([dict(zip(("name", "value", "target", "ok"), one, strict=True)) for one in figures])
        else:
            _print(home, figures)
            for name, value in digests(home.log, [MODEL]).items():
                print(f"digest of {name}: {value}")
    return int(not all(ok for *_, ok in figures))


def in_processes(given: argparse.Namespace) -> int:
    """The same history twice: in one process on the embedded log, then on the log asked for with its stages
    in several processes; 1 when the two logs do not say the same."""
    shares = given.shares or given.processes
    with contextlib.ExitStack() as stack:
        folder = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flights-")))
        calm = open_home(folder / "embedded", create=True)
        stack.callback(calm.log.close)
        _, seconds = play(calm, given.data, given.months, shares=shares)
        blobs = str(folder / "apart" / "blobs") if given.log else ""
        home = open_home(
            folder / "apart", create=True, log=given.log, settings=given.log_settings, blobs=blobs
        )
        stack.callback(home.log.close)
        apart.begin(home, given.data, given.months, shares)
        kinds = [[kind] for kind in apart.KINDS] if given.each_alone else [["all"]]
        processes = apart.Processes(home, (given.log, given.log_settings), given.processes, kinds)
        try:
            played, apart_s, longest_s = apart.play(
                home, given.data, given.months, processes, shares,
                kill_every_s=given.kill_every, seed=given.seed,
            )  # fmt: skip
        finally:
            processes.stop()
        expected, found = digests(calm.log, [MODEL]), digests(home.log, [MODEL])
        entry = registry(home.log).models[MODEL]
        shipped = sum(one.step == "champion" for one in entry.releases)
        same = {name: found[name] == expected[name] for name in expected}
        figures: list[Figure] = [
            ("events", played.events, "", True),
            ("records", home.log.end().n, f"{calm.log.end().n}", home.log.end().n == calm.log.end().n),
            ("processes", len(processes.running), "", True),
            ("shares", shares, "", True),
            ("versions", len(entry.versions), ">= 2", len(entry.versions) >= 2),
            ("shipped", shipped, ">= 1", shipped >= 1),
            (
                "predictions",
                home.log.count(predictions(MODEL)),
                "> 0",
                home.log.count(predictions(MODEL)) > 0,
            ),
            ("kills", processes.kills, ">= 1", processes.kills >= 1 or not given.kill_every),
            *((f"digest_{name}_equal", int(ok), "1", ok) for name, ok in same.items()),
            ("digests_equal", int(all(same.values())), "1", all(same.values())),
            ("embedded_s", seconds, "", True),
            ("apart_s", apart_s, "", True),
            ("longest_wait_s", longest_s, "", True),
        ]
        for name in expected:
            print(f"digest of {name}: embedded {expected[name]}\n{'':{len(name) + 11}}apart    {found[name]}")
        print(f"seed of the kills: {given.seed}")
        _print(home, figures)
    return int(not all(ok for *_, ok in figures))


def play(
    home: Home, data: Path, months: int, *, quiet: bool = False, shares: int = 1
) -> tuple[Played, float]:
    """Replay the first months; how far it came, and the seconds it took from the first event on."""
    events = history(data, months)
    trainer = Ahead(str(HERE / "pipeline.py"))
    system = System(
        load(HERE / "pipeline.py"),
        home.log,
        home.blobs,
        home.path,
        time.perf_counter,
        trainer,
        sync=False,
        shares=shares,
    )
    system.deploy(events[0][0])
    began = time.perf_counter()
    with show.bar("replay", quiet=quiet) as progress:
        played = replay(system, events, told=lambda now: progress(now.events, len(events)))
    seconds = time.perf_counter() - began
    system.save()
    trainer.close()
    return played, seconds


def measure(home: Home, played: Played, seconds: float, *, whole: bool, quiet: bool = False) -> list[Figure]:
    """The figures, each with its target: (name, value, target, ok)."""
    entry = registry(home.log).models[MODEL]
    shipped = sum(one.step == "champion" for one in entry.releases)
    stopped = sum(one.decision != "ship" for one in entry.verdicts.values())
    plan = load(HERE / "pipeline.py").plan(MODEL)
    rows = answered(home)
    carrier, plain = against_carrier(rows, plan.features), against_plain(home, rows, plan)
    with show.bar("verify", quiet=quiet) as progress:
        verified = Books(home.file(), home.log, home.blobs).verify(MODEL, progress)
    newest = entry.versions[max(entry.versions)]
    with show.bar("rebuild", quiet=quiet) as progress:
        digest = rebuild(home.path, home.log, home.file().path, newest, progress)
    versions, few = len(entry.versions), (8, 2, 1) if whole else (2, 1, 0)
    return [
        ("events", played.events, "", True),
        ("records", home.log.end().n, "", True),
        ("versions", versions, f">= {few[0]}", versions >= few[0]),
        ("shipped", shipped, f">= {few[1]}", shipped >= few[1]),
        ("blocked_or_inconclusive", stopped, f">= {few[2]}", stopped >= few[2]),
        ("features", len(plan.features.names), ">= 30", len(plan.features.names) >= 30),
        ("live_auc", plain.candidate, "", True),
        ("live_auc_without", plain.champion, "", True),
        ("auc_difference_low", plain.low, "> 0", plain.low > 0),
        ("carrier_share_auc", carrier.champion, "", True),
        ("auc_over_carrier_low", carrier.low, "> 0", carrier.low > 0),
        ("predictions_verified", verified.predictions, "> 0", verified.predictions > 0),
        ("unequal", len(verified.unequal), "0", not verified.unequal),
        ("rebuild_same", int(digest == newest.digest), "1", digest == newest.digest),
        ("events_per_s", played.events / seconds, "", True),
        ("records_per_s", home.log.end().n / seconds, ">= 3000", home.log.end().n / seconds >= 3000),
    ]


class Answered(NamedTuple):
    """A served answer whose truth came: by which version, from which values."""

    version: int
    values: list[Any]
    score: float
    label: float


def answered(home: Home) -> list[Answered]:
    """Every served answer whose truth came."""
    labels = {
        o.request: o.label
        for o in (read(r, Outcome) for r in every(home.log, [outcomes(MODEL)]))
        if o.label is not None
    }
    said = (read(record, Prediction) for record in every(home.log, [predictions(MODEL)]))
    return [
        Answered(one.version, one.values, one.score, labels[one.request])
        for one in said
        if one.served and one.score is not None and one.request in labels
    ]


def against_carrier(rows: list[Answered], features: FeatureSet) -> Paired:
    """The served scores against the carrier's running late share, where it has one."""
    place = features.names.index("carrier_late")
    known = [one for one in rows if one.values[place] is not None]
    return compared(known, [one.values[place] for one in known])


def against_plain(home: Home, rows: list[Answered], plan: Plan) -> Paired:
    """The served scores against those of a twin of each version: the same fit on the same training rows, but
    with nothing to see beside the request itself."""
    names = [name for name in plan.features.names if of_the_request(plan.features, name)]
    places = [plan.features.names.index(name) for name in names]
    plain = msgspec.structs.replace(plan.features, names=tuple(names))
    versions = registry(home.log).models[MODEL].versions
    order, others = [], []
    for number in sorted({one.version for one in rows}):
        version = versions[number]
        training = [
            msgspec.structs.replace(row, values=[row.values[i] for i in places])
            for row in sealed(home.blobs, version.training.digest)
        ]
        twin = fit_rows(plan.pipeline.fit, None, training, plain, "binary", version.params, version.seed)
        mine = [one for one in rows if one.version == number]
        others += answers(twin, [[one.values[i] for i in places] for one in mine])
        order += mine
    return compared(order, others)


def of_the_request(features: FeatureSet, name: str) -> bool:
    """Whether a feature needs nothing but the request's own columns."""
    about = features.about[name]
    parts = about.kind in ("function", "expression") and about.needs
    return about.kind == "column" or bool(parts and all(of_the_request(features, one) for one in about.needs))


def compared(rows: list[Answered], others: list[Any]) -> Paired:
    """The paired comparison of two scores by the area under the curve."""
    mine = np.array([one.score for one in rows])
    return compare_auc([one.label for one in rows], mine, np.array(others, dtype=np.float64), LEVEL)


def _print(home: Home, figures: list[Figure]) -> None:
    entry = registry(home.log).models[MODEL]
    rows = [
        [
            f"v{n}",
            show.at(v.t_ms),
            v.training.rows,
            entry.verdicts[n].decision,
            f"{entry.verdicts[n].difference:+.4f}",
            entry.standing(n),
        ]
        for n, v in sorted(entry.versions.items())
    ]
    show.table("", ["version", "trained at", "rows", "verdict", "log loss", "standing"], rows)
    for name, value, target, ok in figures:
        shown = f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        print(f"{name} {shown} {target or '-'} {'ok' if ok else 'short'}")


if __name__ == "__main__":
    sys.exit(main())
