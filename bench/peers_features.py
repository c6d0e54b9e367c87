"""The features' peers, each as a child process: what a user of theirs would write, in its fastest way that we found.

`python bench/peers_features.py PEER FOLDER` answers tasks about the data in the folder. A training task gives the
seconds of each way and how many values it made; the fastest a value speaks for the peer. What a way does not do as we
do stands in its name: window functions see late events too early, for their order is the event time.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data_features import KINDS, NAMES, SEED, WINDOWS, Clock, answer_tasks, load, path

QUANTUM = 2.0**-20
LONGEST_MS = max(WINDOWS.values())


def sampled(requests: pa.Table, n: int) -> pa.Table:
    """As many of the requests, drawn with a seed, in their order."""
    if n >= requests.num_rows:
        return requests
    chosen = np.sort(np.random.default_rng(SEED).choice(requests.num_rows, n, replace=False))
    return requests.take(pa.array(chosen))


def timed(name: str, values: int, work: Callable[[], int]) -> dict[str, Any]:
    """The seconds of one way; `work` gives back the number of its rows, so that nothing stays lazy."""
    clock = Clock()
    with clock():
        rows = work()
    return {"way": name, "s": clock.seconds, "values": rows * values, "requests": rows}


class DuckDb:
    """An inequality join, grouped by the request; and window functions over events and requests together."""

    def __init__(self, folder: Path) -> None:
        import duckdb

        self.folder, self.version = folder, f"DuckDB {duckdb.__version__}"
        self.form = ""
        self.connection = duckdb.connect()

    def _of(self, form: str, requests: int) -> None:
        """Both tables in memory, as DuckDB stores them."""
        run = self.connection.execute
        if form != self.form:
            self.form = form
            run(f"create or replace table events as from '{path(self.folder, form, 'events')}'")
            run(f"create or replace table everyone as from '{path(self.folder, form, 'requests')}'")
        chosen = sampled(load(self.folder, form, "requests"), requests)
        self.connection.register("chosen", chosen)
        run("create or replace table requests as from chosen")

    def training(self, form: str, joined: int) -> dict[str, Any]:
        """The join for `joined` requests, and for all of them the window functions."""
        self._of(form, joined)
        ways = [timed("inequality join, GROUP BY", len(NAMES), lambda: self._rows(_joined()))]
        ways.append(
            timed("window functions (late events too early)", len(NAMES), lambda: self._rows(_windowed()))
        )
        return {"ways": ways}

    def _rows(self, query: str) -> int:
        table: pa.Table = self.connection.sql(query).to_arrow_table()
        return table.num_rows

    def check(self, form: str, requests: int) -> dict[str, Any]:
        """Our values against integer sums: how many were compared, and the first that differ in any bit."""
        self._of(form, requests)
        found = self.connection.sql(_integers()).to_arrow_table().to_pylist()
        ours = {row["position"]: row for row in pq.read_table(path(self.folder, form, "ours")).to_pylist()}
        unequal = []
        for row in found:
            mine = ours[row["position"]]
            for window in WINDOWS:
                for kind, value in zip(KINDS, _finished(row, window), strict=True):
                    name = f"{kind}_{window}"
                    if not _same(mine[name], value):
                        unequal.append([row["position"], name, mine[name], value])
        return {"compared": len(found) * len(NAMES), "unequal": len(unequal), "first": unequal[:3]}


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return float(a).hex() == float(b).hex()


def _join(select: Sequence[str]) -> str:
    """Each request with the events that it may see."""
    return f"""
        select r.position, {", ".join(select)}
        from requests r left join events e
          on e.customer = r.customer and e.position < r.position and e.t_ms <= r.t_ms and e.t_ms > r.t_ms - {LONGEST_MS}
        group by r.position, r.t_ms, r.customer"""


def _joined() -> str:
    order = "(e.t_ms - 1700000000000) * 4194304 + e.position"
    spelled = {
        "count": "count(e.amount)", "sum": "sum(e.amount)", "mean": "avg(e.amount)", "std": "stddev_samp(e.amount)",
        "min": "min(e.amount)", "max": "max(e.amount)", "last": f"arg_max(e.amount, {order})",
    }  # fmt: skip
    return _join([
        f"{spelled[kind]} filter (e.t_ms > r.t_ms - {length}) as {kind}_{window}"
        for window, length in WINDOWS.items()
        for kind in KINDS
    ])  # fmt: skip


def _windowed() -> str:
    spelled = {
        "count": "count(amount)", "sum": "sum(amount)", "mean": "avg(amount)", "std": "stddev_samp(amount)",
        "min": "min(amount)", "max": "max(amount)", "last": "last_value(amount ignore nulls)",
    }  # fmt: skip
    select = ", ".join(
        f"{spelled[kind]} over w_{window} as {kind}_{window}" for window in WINDOWS for kind in KINDS
    )
    windows = ", ".join(
        f"w_{window} as (partition by customer order by t_ms range between {length - 1} preceding and current row)"
        for window, length in WINDOWS.items()
    )
    return f"""
        select * exclude (amount) from (
          select position, amount, {select}
          from (select position, customer, t_ms, amount from events
                union all select position, customer, t_ms, null from everyone)
          window {windows})
        where amount is null"""


def _integers() -> str:
    """What the values are made of: counts, exact sums of whole quanta and of their squares, extremes, the newest."""
    units = "round_even(e.amount * 1048576, 0)::bigint::hugeint"
    parts = {
        "n": "count(e.amount)", "total": f"sum({units})", "square": f"sum({units} * {units})",
        "low": "min(e.amount)", "high": "max(e.amount)", "newest": "arg_max(e.amount, (e.t_ms, e.position))",
    }  # fmt: skip
    return _join([
        f"{spelled} filter (e.t_ms > r.t_ms - {length}) as {part}_{window}"
        for window, length in WINDOWS.items()
        for part, spelled in parts.items()
    ])  # fmt: skip


def _finished(row: dict[str, Any], window: str) -> list[float | None]:
    """The values, in the order of KINDS, from DuckDB's integers."""
    n = row[f"n_{window}"]
    total, square = int(row[f"total_{window}"] or 0), int(row[f"square_{window}"] or 0)
    std = math.sqrt((n * square - total * total) / (n * (n - 1))) * QUANTUM if n > 1 else None
    ends = [row[f"{part}_{window}"] for part in ("low", "high", "newest")]
    return [n, total * QUANTUM, total / n * QUANTUM if n else None, std, *ends]


class Polars:
    """An equal join cut down by conditions and grouped; and rolling groups over events and requests together."""

    def __init__(self, folder: Path) -> None:
        import polars as pl

        self.folder, self.version, self.pl = folder, f"polars {pl.__version__}", pl

    def training(self, form: str, joined: int, rolled: bool) -> dict[str, Any]:
        """The join for `joined` requests, and for all of them the rolling groups, where these are wanted: they
        look at every event of every window, which is quadratic in a hot key."""
        pl = self.pl
        events: Any = pl.from_arrow(load(self.folder, form, "events"))
        everyone: Any = pl.from_arrow(load(self.folder, form, "requests"))
        chosen: Any = pl.from_arrow(sampled(load(self.folder, form, "requests"), joined))
        ways = [timed("join, filter, group_by", len(NAMES), lambda: self._joined(events, chosen))]
        if rolled:
            name = "rolling (late events too early)"
            ways.append(timed(name, len(NAMES), lambda: self._rolled(events, everyone)))
        return {"ways": ways}

    def _kinds(self, column: Any, window: str) -> list[Any]:
        made = {
            "count": column.count(), "sum": column.sum(), "mean": column.mean(), "std": column.std(),
            "min": column.min(), "max": column.max(), "last": column.last(),
        }  # fmt: skip
        return [made[kind].alias(f"{kind}_{window}") for kind in KINDS]

    def _joined(self, events: Any, requests: Any) -> int:
        pl = self.pl
        aggregates = [
            one
            for window, length in WINDOWS.items()
            for one in self._kinds(pl.col("amount").filter(pl.col("age") < length), window)
        ]
        rows = 0
        ordered = events.sort("t_ms", "position")
        for part in requests.iter_slices(1_000):  # all pairs at once would not fit
            pairs = (
                part.lazy()
                .rename({"position": "asked", "t_ms": "now"})
                .join(ordered.lazy(), on="customer", maintain_order="right")
                .with_columns(age=pl.col("now") - pl.col("t_ms"))
                .filter(pl.col("position") < pl.col("asked"), pl.col("age") >= 0, pl.col("age") < LONGEST_MS)
            )
            found = pairs.group_by("asked").agg(aggregates)
            rows += (
                part.lazy().rename({"position": "asked"}).join(found, on="asked", how="left").collect().height
            )
        return rows

    def _rolled(self, events: Any, requests: Any) -> int:
        pl = self.pl
        both = pl.concat([events, requests], how="diagonal").sort("customer", "t_ms")
        column = pl.col("amount").drop_nulls()
        made = None
        for window, length in WINDOWS.items():
            rolled = (
                both.lazy()
                .rolling("t_ms", period=f"{length}i", group_by="customer", closed="right")
                .agg(*self._kinds(column, window))
            )
            kept = rolled.select(pl.all().exclude("customer", "t_ms")).collect()
            kept = kept.filter(both["amount"].is_null())
            made = kept if made is None else made.hstack(kept)
        assert made is not None
        return int(made.height)


class Feast:
    """Ten features of each event, computed beforehand; joined to the requests by its local stores, and looked up."""

    FEATURES = 10

    def __init__(self, folder: Path) -> None:
        import os

        os.environ["FEAST_USAGE"] = "False"
        import feast

        self.folder, self.version = folder, f"Feast {feast.__version__}"
        self.stores: dict[tuple[str, str], Any] = {}

    def _store(self, form: str, kind: str) -> Any:
        """A repository with one feature view over the events, on one kind of offline store."""
        if (form, kind) in self.stores:
            return self.stores[form, kind]
        from datetime import timedelta

        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
        from feast.types import Float64

        home = self.folder / f"feast-{form}-{kind}"
        home.mkdir()
        table = load(self.folder, form, "events")
        amount = table["amount"].to_numpy()
        columns = {f"f{i}": pa.array(amount * (i + 1)) for i in range(self.FEATURES)}
        at = table["t_ms"].cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))
        data = home / "features.parquet"
        pq.write_table(pa.table({"customer": table["customer"], "at": at, **columns}), data)
        customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
        view = FeatureView(
            name="spent", entities=[customer], ttl=timedelta(milliseconds=LONGEST_MS),
            schema=[Field(name=name, dtype=Float64) for name in columns],
            source=FileSource(path=str(data), timestamp_field="at"),
        )  # fmt: skip
        config = RepoConfig(
            project="bench", provider="local", registry=str(home / "registry.db"),
            online_store={"type": "sqlite", "path": str(home / "online.db")}, offline_store={"type": kind},
            entity_key_serialization_version=3,
        )  # fmt: skip
        store = self.stores[form, kind] = FeatureStore(config=config)
        store.apply([customer, view])
        return store

    @property
    def names(self) -> list[str]:
        """The features, as they are asked for."""
        return [f"spent:f{i}" for i in range(self.FEATURES)]

    def training(self, form: str, kinds: Sequence[str], asked: int) -> dict[str, Any]:
        """So many requests, by each kind of offline store. The dask one makes all pairs of events and requests of a
        key: with all requests of a hot one it asks for 46 GB."""
        table = sampled(load(self.folder, form, "requests"), asked)
        requests: Any = pa.table({
            "customer": table["customer"],
            "event_timestamp": table["t_ms"].cast(pa.timestamp("ms", "UTC")),
        }).to_pandas()  # fmt: skip
        ways = []
        for kind in kinds:
            store = self._store(form, kind)

            def work(store: Any = store) -> int:
                found = store.get_historical_features(entity_df=requests, features=self.names).to_arrow()
                return int(found.num_rows)

            ways.append(timed(f"point-in-time join of 10 ready features, {kind} store", self.FEATURES, work))
        return {"ways": ways}

    def lookup(self, form: str, looks: int) -> dict[str, Any]:
        """`get_online_features` on sqlite: one entity and a hundred, ten features each."""
        import random
        import statistics

        import pandas as pd

        store = self._store(form, "dask")
        table = load(self.folder, form, "events").to_pandas()
        newest = table.sort_values("t_ms").groupby("customer", as_index=False).last()
        rows = pd.DataFrame(
            {"customer": newest["customer"], "at": pd.to_datetime(newest["t_ms"], unit="ms", utc=True)}
        )
        for i in range(self.FEATURES):
            rows[f"f{i}"] = newest["amount"] * (i + 1)
        store.write_to_online_store("spent", rows)
        known, chance = sorted(newest["customer"]), random.Random(SEED)

        def look(n: int) -> float:
            asked = [{"customer": customer} for customer in chance.sample(known, n)]
            began = time.perf_counter()
            store.get_online_features(features=self.names, entity_rows=asked).to_dict()
            return time.perf_counter() - began

        return {
            "one_us": statistics.median(look(1) for _ in range(looks)) * 1e6,
            "hundred_ms": statistics.median(look(100) for _ in range(max(3, looks // 10))) * 1e3,
        }


class Storey:
    """AggregateByKey in memory, an emitted event with its 49 values for each that goes in."""

    def __init__(self, folder: Path) -> None:
        import importlib.metadata

        self.folder, self.version = folder, f"storey {importlib.metadata.version('storey')}"

    def fold(self, form: str, events: int) -> dict[str, Any]:
        """The faster of two ways in. Each window has ten buckets, so its edge is a tenth of it coarse: with more
        it is slower still."""
        from storey import DataframeSource, SyncEmitSource

        table = load(self.folder, form, "events").slice(0, events)
        rows, frame = table.to_pylist(), table.to_pandas()
        seconds = min(self._folded(SyncEmitSource(), rows), self._folded(DataframeSource(frame), ()))
        return {
            "per_s": len(rows) / seconds,
            "events": len(rows),
            "way": "49 values after each event, by buckets",
        }

    def _folded(self, entry: Any, rows: Sequence[dict[str, Any]]) -> float:
        from storey import AggregateByKey, FieldAggregator, NoopDriver, Reduce, Table, build_flow
        from storey.dtypes import SlidingWindows

        kinds = ["count", "sum", "avg", "stddev", "min", "max", "last"]
        aggregates = [
            FieldAggregator(window, "amount", kinds, SlidingWindows([_storey(length)], _storey(length // 10)))
            for window, length in WINDOWS.items()
        ]
        fold = AggregateByKey(aggregates, Table("t", NoopDriver()), key_field="customer", time_field="t_ms")
        flow = build_flow([entry, fold, Reduce({}, lambda seen, event: event)]).run()
        clock = Clock()
        with clock():
            for row in rows:
                flow.emit(row)
            if rows:
                flow.terminate()
            newest = flow.await_termination()
        assert len(newest) == len(NAMES) + 4, newest
        return clock.seconds


def _storey(length_ms: int) -> str:
    return f"{length_ms // 1000}s"


class River:
    """A statistic of TimeRolling for each key and window, of those that it takes: sum, mean and variance."""

    def __init__(self, folder: Path) -> None:
        import river

        self.folder, self.version = folder, f"river {river.__version__}"

    def fold(self, form: str, events: int) -> dict[str, Any]:
        """Updated by each event and read after it."""
        from collections import defaultdict
        from datetime import UTC, datetime, timedelta
        from functools import partial

        from river import stats, utils

        rows = load(self.folder, form, "events").slice(0, events).to_pylist()
        kinds = (stats.Sum, stats.Mean, stats.Var)

        def made(kinds: Sequence[Any]) -> list[Any]:
            return [
                utils.TimeRolling(kind, period=timedelta(milliseconds=length))
                for length in WINDOWS.values()
                for kind in kinds
            ]

        found = {}
        for name, some in (("mean only", (stats.Mean,)), ("sum, mean, var", kinds)):
            state: dict[str, list[Any]] = defaultdict(partial(made, some))
            clock = Clock()
            with clock():
                for row in rows:
                    t = datetime.fromtimestamp(row["t_ms"] / 1000, UTC).replace(tzinfo=None)
                    for one in state[row["customer"]]:
                        one.update(row["amount"], t=t)
                        one.get()
            found[name] = len(rows) / clock.seconds
        told = "sum, mean, var of each window after each event"
        return {
            "per_s": found["sum, mean, var"],
            "events": len(rows),
            "way": told,
            "mean_per_s": found["mean only"],
        }


PEERS: dict[str, Callable[[Path], Any]] = {
    "duckdb": DuckDb, "polars": Polars, "feast": Feast, "storey": Storey, "river": River,
}  # fmt: skip
TASKS = ("training", "check", "lookup", "fold")


def main() -> None:
    """Answer tasks of one peer."""
    peer = PEERS[sys.argv[1]](Path(sys.argv[2]))
    answer_tasks(peer.version, {name: getattr(peer, name) for name in TASKS if hasattr(peer, name)})


if __name__ == "__main__":
    main()
