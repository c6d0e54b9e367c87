"""console: routes and what they show. Plain pages without a script; charts are SVG in the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from penstock.chart import line
from penstock.console.features import PREFIX, found_by, view
from penstock.console.tail import newest
from penstock.feature import FeatureSet
from penstock.gate.report import report
from penstock.log import Blob, Log
from penstock.monitor import board
from penstock.monitor.board import ALARMS, Alarms
from penstock.predict.trace import Trace
from penstock.record.codec import moment, span_text, unpack
from penstock.record.decisions import (
    Evaluation,
    Hour,
    Prediction,
    predictions,
    profiles,
    read,
)
from penstock.record.errors import NotFound, PenstockError
from penstock.record.record import Draft, Position, Record
from penstock.release.registry import Entry, Registry
from penstock.stage import Stage, View, stage

if TYPE_CHECKING:
    import jinja2

HOURS_KEPT = 24 * 90
PREDICTIONS_SHOWN = 50
HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
REPORT_POLICY = POLICY.replace("style-src 'self'", "style-src 'unsafe-inline'")
_SENTENCES = {404: "There is nothing at this address.", 405: "This address does not take this method."}


class Sight(msgspec.Struct, frozen=True):
    """What the pages read: the log and its folds, the rules' texts by model, the tracer, and the feature sets by
    model and digest."""

    log: Log
    blobs: Blob
    status: Callable[[], dict[str, Any]]
    registry: Callable[[], Registry]
    rules: Mapping[str, Sequence[str]]
    trace: Callable[[str], Trace]
    sets: Mapping[str, Mapping[str, FeatureSet]] = {}


class Hours(msgspec.Struct):
    """The newest hours of a model, oldest first."""

    hours: list[Hour] = []


def _hours(model: str) -> Stage[Hours]:
    def step(state: Hours, record: Record) -> tuple[Hours, list[Draft]]:
        state.hours.append(read(record, Hour))
        del state.hours[:-HOURS_KEPT]
        return state, []

    return stage(f"hours.{model}", (profiles(model),), Hours, step)


class Folds:
    """The console's own folds, kept up with the log; read on the event loop only, so one at a time."""

    def __init__(self, sight: Sight) -> None:
        self._hours = {model: View(_hours(model), sight.log) for model in sight.rules}
        self._alarms = View(ALARMS, sight.log)

    def hours(self, model: str) -> list[Hour]:
        """A model's hours, oldest first."""
        return list(self._hours[model].read().hours)

    def alarms(self) -> Alarms:
        """Standing and recent alerts."""
        return self._alarms.read()


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader("penstock.console")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        time=lambda ms: f"{moment(ms):%Y-%m-%d %H:%M}",
        n=lambda x: "–" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:,.4g}",
        percent=lambda x: "–" if x is None else f"{x:.1%}",
        age=lambda ms: "–" if ms is None else _age(ms),
        span=lambda ms: span_text(ms) if ms else "all history",
    )
    return environment


def _age(ms: int) -> str:
    """A span of time in two figures of its unit."""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= 2 * length:
            return f"{ms / length:.1f} {unit}" if ms < 10 * length else f"{ms // length} {unit}"
    return f"{ms} ms"


def pages(sight: Sight) -> ASGIApp:
    """The console as an app to mount."""
    folds = Folds(sight)

    async def traced(request: Request) -> Response:  # it folds the log again, so off the loop
        found = await run_in_threadpool(sight.trace, request.path_params["id"])
        return _page("prediction.html", trace=found)

    async def features(request: Request) -> Response:  # it reads a state, so off the loop
        name, one = _set(sight, request)
        hours, entry = folds.hours(name), sight.registry().models.get(name, Entry())
        folded = Position(n=sight.status()["stages"].get(f"predict.{name}", {}).get("position", 0))
        shown = await run_in_threadpool(view, sight.log, name, one, entry, hours, folded)
        return _page("features.html", **shown)

    routes = [
        Route("/", _shown(lambda request: _overview(sight, folds))),
        Route("/static/style.css", _shown(_style)),
        Route("/find", _shown(_find)),
        Route("/models/{name}", _shown(lambda request: _model(sight, folds, request))),
        Route("/models/{name}/predictions", _shown(lambda request: _predictions(sight, request))),
        Route("/models/{name}/versions/{n:int}/report", _shown(lambda request: _report(sight, request))),
        Route("/features/{name}/{digest}", features),
        Route("/predictions/{id:path}", traced),
    ]
    handlers: dict[Any, Any] = {PenstockError: _sorry, HTTPException: _sorry, Exception: _sorry}
    return Starlette(routes=routes, exception_handlers=handlers)


def _shown(show: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """A page that is made on the event loop: quick, and never two at a time."""

    async def endpoint(request: Request) -> Response:
        return show(request)

    return endpoint


def _find(request: Request) -> Response:
    return RedirectResponse(f"/predictions/{request.query_params.get('id', '').strip()}")


def _page(template: str, status: int = 200, **values: Any) -> Response:
    text = _templates().get_template(template).render(**values)
    return HTMLResponse(text, status, headers={"content-security-policy": POLICY})


def _style(request: Request) -> Response:
    return Response((HERE / "style.css").read_bytes(), media_type="text/css")


def _sorry(request: Request, error: Exception) -> Response:
    """An error as a page: a sentence, and nothing of our insides."""
    status = error.status if isinstance(error, PenstockError) else getattr(error, "status_code", 500)
    sentence = (
        str(error)
        if isinstance(error, PenstockError)
        else _SENTENCES.get(status, "This page cannot be shown.")
    )
    return _page("message.html", status, title=str(status), sentence=sentence)


def _entry(sight: Sight, name: str) -> Entry:
    if name not in sight.rules:
        raise NotFound("There is no model of this name.")
    return sight.registry().models.get(name, Entry())


def _set(sight: Sight, request: Request) -> tuple[str, FeatureSet]:
    name = request.path_params["name"]
    _entry(sight, name)
    found = found_by(sight.sets.get(name, {}), request.path_params["digest"])
    if found is None:
        raise NotFound("There is no feature set of this digest.")
    return name, found


def _sets(sight: Sight) -> list[dict[str, Any]]:
    """A line for each feature set: what it is called, how large it is, and which versions are bound to it."""
    known = sight.registry().models
    return [
        {
            "model": name, "digest": digest, "short": digest[:PREFIX], "count": len(one.names),
            "topics": list(one.sources),
            "versions": [n for n, v in known.get(name, Entry()).versions.items() if v.features == digest],
        }
        for name, sets in sight.sets.items() for digest, one in sets.items()
    ]  # fmt: skip


def _overview(sight: Sight, folds: Folds) -> Response:
    status, alarms = sight.status(), folds.alarms()
    standing = [alert for mine in alarms.standing.values() for alert in mine.values()]
    models = [_summary(sight, name, status["models"][name], folds.hours(name)) for name in sight.rules]
    refused = [
        (one["labels"]["topic"], one["labels"]["code"], one["value"])
        for one in status["counters"]
        if one["name"] == "refused"
    ]
    dead = [
        (one["labels"]["stage"], one["labels"]["code"], one["value"])
        for one in status["counters"]
        if one["name"] == "dead_letters"
    ]
    traffic = {name: board.volume(board.thin(folds.hours(name)))["requests"] for name in sight.rules}
    rates = {name: board.positive_rate(board.thin(folds.hours(name)))["positive"] for name in sight.rules}
    drawn = [line(traffic, title="Requests an hour"), line(rates, title="Positive answers", percent=True)]
    return _page(
        "overview.html",
        how=status, models=models, standing=standing, recent=alarms.recent[::-1][:8], refused=refused, dead=dead,
        charts=[Markup(one) for one in drawn], sets=_sets(sight),
        lag=max((one["lag"] for one in status["stages"].values()), default=0),
    )  # fmt: skip


def _summary(sight: Sight, name: str, status: dict[str, Any], hours: Sequence[Hour]) -> dict[str, Any]:
    """A model's line on the overview: of the last hour, and of the last day's outcomes."""
    entry = sight.registry().models.get(name, Entry())
    newest = hours[-1] if hours else None
    day = [hour for hour in hours if newest and hour.to_ms > newest.to_ms - 86_400_000]
    champion = str(status["champion"])
    known = sum(hour.versions.get(champion, {}).get("rows", 0.0) for hour in day)
    lost = sum(hour.versions.get(champion, {}).get("loss", 0.0) for hour in day)
    verdict = entry.verdicts[max(entry.verdicts)] if entry.verdicts else None
    return {
        "name": name, **status, "step": entry.standing(status["candidate"]) if status["candidate"] else "",
        "hour": newest, "rate": newest.positives / newest.served if newest and newest.served else None,
        "loss": lost / known if known else None, "known": int(known), "verdict": verdict,
    }  # fmt: skip


def _model(sight: Sight, folds: Folds, request: Request) -> Response:
    name = request.path_params["name"]
    entry = _entry(sight, name)
    hours = board.thin(folds.hours(name))
    standing = folds.alarms().standing.get(name, {})
    return _page(
        "model.html",
        name=name, entry=entry, rules=[(rule, standing.get(rule)) for rule in sight.rules[name]],
        trainings=sorted([*entry.versions.values(), *entry.failures.values()], key=lambda one: -one.version),
        releases=entry.releases[::-1], charts=_charts(hours, entry),
        sets=[one for one in _sets(sight) if one["model"] == name],
    )  # fmt: skip


def _charts(hours: Sequence[Hour], entry: Entry) -> list[Markup]:
    marks = [
        (one.t_ms, f"v{one.version} {one.step}")
        for one in entry.releases
        if one.step in ("champion", "rolled_back")
    ]
    drawn = [
        line(board.live_loss(hours), title="Live loss by version", marks=marks),
        line(board.positive_rate(hours), title="Positive answers", percent=True, marks=marks),
        line(board.volume(hours), title="Requests an hour"),
        line(board.latency(hours), title="Latency of a batch, ms"),
        line(board.missing(hours), title="Missing values", percent=True),
        line(board.drifts(hours), title="Drift (PSI)", marks=marks),
    ]
    return [Markup(one) for one in drawn]


def _predictions(sight: Sight, request: Request) -> Response:
    name = request.path_params["name"]
    _entry(sight, name)
    found = newest(sight.log, predictions(name), PREDICTIONS_SHOWN)
    rows = [(record.id, read(record, Prediction)) for record in reversed(found)]
    return _page("predictions.html", name=name, rows=rows)


def _report(sight: Sight, request: Request) -> Response:
    entry, number = _entry(sight, request.path_params["name"]), request.path_params["n"]
    version, verdict = entry.versions.get(number), entry.verdicts.get(number)
    if version is None or verdict is None:
        raise NotFound("There is no verdict on such a version.")
    evaluation = unpack(sight.blobs.get(version.evaluation), Evaluation)
    return HTMLResponse(
        report(version, verdict, evaluation), headers={"content-security-policy": REPORT_POLICY}
    )
