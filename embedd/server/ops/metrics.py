"""The route of the metrics, and the count of requests."""

import time

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractResource

from embedd.metrics import Counter, Histogram, Metrics
from embedd.server.dialects.base import TEXT, Dialect, Route
from embedd.server.dialects.openai.errors import STATUSES, to_error

METRICS = web.AppKey("metrics", Metrics)
CLIENT_LEFT = 499  # as nginx logs it
NO_ROUTE = "none"


async def metrics(request: web.Request) -> web.StreamResponse:
    """``GET /metrics``: Prometheus' text format, or OpenMetrics if the client accepts it."""
    body, content_type = request.app[METRICS].expose(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def name_route(request: web.Request, base_path: str) -> str:
    """Return the path of the route of *request*, as it is documented; `NO_ROUTE` if none is."""
    resource = request.match_info.route.resource
    if resource is None:
        return NO_ROUTE
    return resource.canonical.removeprefix(base_path).rstrip("/") or "/"


class RequestCounter:
    """Counts and times requests by route and status.

    Args:
        base_path: A prefix of paths, which is not part of a route's name.
    """

    def __init__(self, counts: Metrics, base_path: str = "") -> None:
        self._counts = counts
        self._base_path = base_path
        self._found: dict[tuple[AbstractResource | None, int], tuple[Counter, Histogram]] = {}

    def begin(self) -> float:
        """Count a request as in flight; return what `end` is called with."""
        self._counts.in_flight += 1
        return time.perf_counter()

    def end(self, request: web.Request, status: int, begun: float) -> None:
        """Count a request as answered."""
        self._counts.in_flight -= 1
        key = (request.match_info.route.resource, status)
        found = self._found.get(key)
        if found is None:
            route = name_route(request, self._base_path)
            found = self._found[key] = (
                self._counts.requests.labels(route, status),
                self._counts.request_seconds.labels(route),
            )
        requests, seconds = found
        requests.inc()
        seconds.observe(time.perf_counter() - begun)


DIALECT = Dialect(
    name="operations",
    routes=(Route(method="GET", path="/metrics", endpoint=metrics, reply=str, media=TEXT),),
    to_error=to_error,
    statuses=STATUSES,
)
