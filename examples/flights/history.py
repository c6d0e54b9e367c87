"""The year 2013 as it became known: flights, departures, landings, weather, planes, in order of time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

Timed = tuple[int, str, dict[str, Any]]

# Puerto Rico and the Virgin Islands are not in the airports' table.
ATLANTIC = ("BQN", "PSE", "SJU", "STT")


def history(folder: Path, months: int = 12) -> list[Timed]:
    """Every event of the first months of the year: when it becomes known (UTC ms), its topic, its row."""
    flights = pl.read_parquet(folder / "flights.parquet").filter(pl.col("month") <= months)
    end_ms = int(flights["time_hour"].max().timestamp() * 1000) + 3_600_000
    zones = _zones(folder / "airports.csv")
    events = [*_planes(folder / "planes.csv"), *_weather(folder / "weather.csv")]
    for row in flights.iter_rows(named=True):
        events.extend(_flight(row, zones[row["dest"]]))
    start_ms = min(at for at, topic, _ in events if topic == "flight")
    order = {"plane": 0, "weather": 1, "landing": 2, "departure": 3, "flight": 4}
    events = [(max(at, start_ms - 3_600_000), topic, row) for at, topic, row in events if at <= end_ms]
    return sorted(events, key=lambda event: (event[0], order[event[1]]))


def _zones(path: Path) -> dict[str, ZoneInfo]:
    names = pl.read_csv(path, columns=["faa", "tzone"], null_values=["NA", "\\N"]).drop_nulls()
    return {faa: ZoneInfo(zone) for faa, zone in names.iter_rows()} | dict.fromkeys(
        ATLANTIC, ZoneInfo("America/Puerto_Rico")
    )


def _planes(path: Path) -> Iterator[Timed]:
    planes = pl.read_csv(path, columns=["tailnum", "year", "seats"], null_values="NA")
    for row in planes.iter_rows(named=True):
        yield 0, "plane", row


def _weather(path: Path) -> Iterator[Timed]:
    columns = ["origin", "temp", "wind_speed", "precip", "visib", "pressure"]
    rows = pl.read_csv(path, null_values="NA", infer_schema_length=None).with_columns(
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC").alias("at"),
        pl.col(columns[1:]).cast(pl.Float64),
    )
    for row in rows.select("at", *columns).iter_rows(named=True):
        yield _ms(row["at"]), "weather", row


def _flight(row: dict[str, Any], zone: ZoneInfo) -> Iterator[Timed]:
    at = row["time_hour"] + timedelta(minutes=row["minute"])
    flight_id = (
        f"{row['year']}-{row['month']:02}-{row['day']:02}/{row['carrier']}{row['flight']}/{row['origin']}"
    )
    same = {
        "flight_id": flight_id, "tailnum": row["tailnum"], "carrier": row["carrier"], "origin": row["origin"],
        "route": f"{row['origin']}-{row['dest']}", "line": f"{row['carrier']}{row['flight']}",
    }  # fmt: skip
    yield _ms(at), "flight", {
        **same, "at": at, "dest": row["dest"], "distance": row["distance"], "local_hour": row["hour"],
    }  # fmt: skip
    if row["dep_delay"] is None:
        return
    left = at + timedelta(minutes=row["dep_delay"])
    yield _ms(left), "departure", {**same, "at": left, "dep_delay": row["dep_delay"]}
    if row["arr_delay"] is None or row["arr_time"] is None:
        return
    landed = _after(left, int(row["arr_time"]), zone)
    late = row["arr_delay"] > 15
    yield _ms(landed), "landing", {
        **same, "at": landed, "dest": row["dest"], "arr_delay": row["arr_delay"], "late": late,
    }  # fmt: skip


def _after(left: datetime, clock: int, zone: ZoneInfo) -> datetime:
    """The first moment after a departure at which the destination's clocks show `clock` (HHMM, 2400 too)."""
    local = left.astimezone(zone)
    minutes = (clock // 100) * 60 + clock % 100
    shown = datetime(local.year, local.month, local.day, tzinfo=zone) + timedelta(minutes=minutes)
    landed = shown.astimezone(UTC)
    return landed if landed > left else (shown + timedelta(days=1)).astimezone(UTC)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
