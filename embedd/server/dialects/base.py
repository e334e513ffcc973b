"""What a dialect is: routes, the shape of its errors, the statuses that differ."""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from embedd.choices import TokenIdChoice
from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError
from embedd.library import Library
from embedd.painter.painter import Painter
from embedd.server.http.bodies import BodyLimits
from embedd.types import Result

EMBEDDER = web.AppKey("embedder", Embedder)
PAINTER = web.AppKey("painter", Painter)
LIBRARY = web.AppKey("library", Library)
BODIES = web.AppKey("bodies", BodyLimits)

# Content types of answers and bodies.
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
TEXT: Final = "text/plain"
HTML: Final = "text/html"

MAX_OLLAMA_INPUTS: Final = 100_000

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Computed(NamedTuple):
    """What was computed for a request: the model's name, as it was sent, and the result."""

    model: str
    result: Result


# Of requests for which something was computed; for what observes requests.
COMPUTED: Final = web.RequestKey("computed", Computed)
# Of requests whose answer goes on until the client leaves.
ENDLESS: Final = web.RequestKey("endless", bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows.

    Args:
        max_inputs: Inputs of one request in all dialects but Ollama's.
        max_ollama_inputs: The same in Ollama's.
        token_ids: Where token arrays are accepted.
        max_queue: Requests that may wait for models to load.
        request_timeout: Seconds for a request that sets none, ``math.inf`` for ever.
        default_model: For requests that name none; None is the only model there is.
        default_rerank_model: The same for those that rerank; None is `default_model`.
        ui: Whether there is a page for browsers.
    """

    max_inputs: int = 2048
    max_ollama_inputs: int = MAX_OLLAMA_INPUTS
    token_ids: TokenIdChoice = TokenIdChoice.AUTO
    max_queue: int = 512
    request_timeout: float = math.inf
    default_model: str | None = None
    default_rerank_model: str | None = None
    ui: bool = True


POLICY = web.AppKey("policy", Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that failed: the error, the status of the answer, the request's id in the log."""

    error: EmbeddError
    status: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path with its endpoint, and what the OpenAPI document says of them.

    ``GET`` serves ``HEAD`` too. A part in braces in the path may hold slashes.

    Args:
        body: The struct that decodes the body; None is an empty body, `bytes` a file.
        reply: Type of the answer as JSON; None is an empty answer.
        media: Content type of the answer.
        other_media: Content types of answers that are no JSON: streams of events, pictures.
        upload: Content type of a body that is a file.
        query: Names of the parameters after the path.
        accepts: On a path that several routes share: whether this route answers a body,
            given its fields that are not null, each as JSON. None answers all other bodies.
    """

    method: str
    path: str
    endpoint: Endpoint
    body: type | None = None
    reply: Any = None
    media: str = JSON
    other_media: tuple[str, ...] = ()
    upload: str = "application/octet-stream"
    query: tuple[str, ...] = ()
    accepts: Callable[[Mapping[str, bytes]], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The API of one service or family of clients.

    Args:
        to_error: Body of an error; the OpenAPI document shows the type that it returns.
        statuses: Statuses of errors where they differ from the common table.
        formats_routing_errors: Whether an unknown method on one of its paths is answered
            with `to_error`; False answers plain text, as Ollama does.
    """

    name: str
    routes: tuple[Route, ...]
    to_error: Callable[[Failure], msgspec.Struct]
    statuses: Mapping[type[EmbeddError], int] = field(default_factory=dict)
    formats_routing_errors: bool = True
