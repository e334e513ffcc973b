"""What a dialect is: routes, the shape of its errors, the statuses that differ."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from embedd.embedder import Embedder
from embedd.errors import EmbeddError
from embedd.library import Library
from embedd.server.bodies import BodyLimits
from embedd.types import EmbedResult

EMBEDDER = web.AppKey("embedder", Embedder)
LIBRARY = web.AppKey("library", Library)
BODIES = web.AppKey("bodies", BodyLimits)

LONGEST_INDEX_LIST = 1000  # bytes of `X-Embedd-Truncated`

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A verb and a path; ``GET`` serves ``HEAD`` too."""

    method: str
    path: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A way of speaking.

    Args:
        to_error: Body of an error, as JSON.
        statuses: Where they differ from the common table.
    """

    name: str
    routes: tuple[Route, ...]
    to_error: Callable[[EmbeddError], bytes]
    statuses: Mapping[type[EmbeddError], int] = field(default_factory=dict)


def computed_headers(result: EmbedResult) -> dict[str, str]:
    """What every computed answer says in its headers, in every dialect."""
    if result.served_by is None:
        return {}
    digest = result.served_by.digest.removeprefix("sha256:")[:12]
    headers = {
        "Server-Timing": _server_timing(result),
        "X-Embedd-Model": (
            f"{digest};engine={result.served_by.engine};rung={result.served_by.rung}"
        ),
    }
    if result.truncated:
        headers["X-Embedd-Truncated"] = _index_list([one.index for one in result.truncated])
    return headers


def _server_timing(result: EmbedResult) -> str:
    timings = result.timings
    parts = {
        "tokenize": timings.tokenize,
        "queue": timings.queue,
        "compute": timings.compute,
        "total": timings.total,
    }
    if timings.load:
        parts = {"load": timings.load, **parts}
    return ", ".join(f"{name};dur={round(1000 * seconds, 3)}" for name, seconds in parts.items())


def _index_list(indices: list[int]) -> str:
    text = ",".join(map(str, indices))
    if len(text) <= LONGEST_INDEX_LIST:
        return text
    end = text.rindex(",", 0, LONGEST_INDEX_LIST - len(",...") + 1)
    return text[:end] + ",..."
