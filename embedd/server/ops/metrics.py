"""The route of the metrics, and the middleware that counts requests."""

import functools
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter, Histogram

from embedd.metrics import Metrics
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


def make_counter(counts: Metrics, base_path: str = "") -> Middleware:
    """Return the outermost middleware: it counts and times requests by route and status.

    Args:
        base_path: A prefix of paths, which is not part of a route's name.
    """

    @functools.cache
    def find(route: str, status: int) -> tuple[Counter, Histogram]:
        return counts.requests.labels(route, status), counts.request_seconds.labels(route)

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        start = time.perf_counter()
        status = CLIENT_LEFT
        counts.in_flight.inc()
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        else:
            return response
        finally:
            counts.in_flight.dec()
            requests, seconds = find(name_route(request, base_path), status)
            requests.inc()
            seconds.observe(time.perf_counter() - start)

    return count


DIALECT = Dialect(
    name="operations",
    routes=(Route(method="GET", path="/metrics", endpoint=metrics, reply=str, media=TEXT),),
    to_error=to_error,
    statuses=STATUSES,
)
