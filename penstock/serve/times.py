"""serve: how long calls took: a histogram for each route and status, under OpenTelemetry's name for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

from penstock.serve.front.call import Call

NAME = "http_server_request_duration_seconds"
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BOUNDS = (*map(repr, BOUNDS_S), "+Inf")
"""The upper ends of the buckets, as text."""
ROUTES = (
    "/v2/models",
    "/v2/features",
    "/v2",
    "/v1",
    "/models",
    "/invocations",
    "/events",
    "/status",
    "/metrics",
    "/inference.GRPCInferenceService",
)


class Times:
    """Counts of calls by route, status and time. On one event loop; `tell` hands over what came since the last time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._sums: dict[tuple[str, int], float] = {}
        self._routes: dict[bytes, str] = {}

    def took(self, call: Call, status: int, seconds: float) -> None:
        """A call was answered."""
        at = self._routes.get(call.head.path) or self._route(call.head.path), status
        counts = self._counts.get(at)
        if counts is None:
            counts = self._counts[at] = [0] * len(BOUNDS)
            self._sums[at] = 0.0
        counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sums[at] += seconds

    def _route(self, path: bytes) -> str:
        text = path.decode("latin-1")
        found = next((one for one in ROUTES if text == one or text.startswith(f"{one}/")), "/")
        if len(self._routes) < 1000:  # names of models and versions, and what else callers think of
            self._routes[path] = found
        return found

    def tell(self, count: Callable[[str, Mapping[str, str], int], None]) -> None:
        """Hand over. Sums are in whole microseconds."""
        for (route, status), counts in self._counts.items():
            labels = {"http_route": route, "http_response_status_code": str(status)}
            for bound, n in zip(BOUNDS, counts, strict=True):
                count(f"{NAME}_bucket", {**labels, "le": bound}, n)
            count(f"{NAME}_sum_us", labels, round(self._sums[route, status] * 1e6))
            count(f"{NAME}_count", labels, sum(counts))
        self._counts.clear()
        self._sums.clear()
