"""What a dialect is: routes, the shape of its errors, the statuses that differ."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError, InvalidInputError, LoadTimeoutError
from embedd.library import Library
from embedd.server.http.bodies import Body, BodyLimits, decode_plainly
from embedd.types import DType, EmbedRequest, EmbedResult, Result

EMBEDDER = web.AppKey("embedder", Embedder)
LIBRARY = web.AppKey("library", Library)
BODIES = web.AppKey("bodies", BodyLimits)

LONGEST_INDEX_LIST = 1000  # bytes of `X-Embedd-Truncated`
TOKENIZER = "llama"  # what makes token ids of every text: llama.cpp, in the worker

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows in all dialects but Ollama's.

    Args:
        max_inputs: Inputs of one request.
        token_ids: Whether token arrays are accepted.
        default_model: For requests that name none; None is the only model there is.
        default_rerank_model: The same for those that rerank; None is `default_model`.
    """

    max_inputs: int = 2048
    token_ids: bool = True
    default_model: str | None = None
    default_rerank_model: str | None = None


POLICY = web.AppKey("policy", Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that failed: why, with which status, and its name in the log."""

    error: EmbeddError
    status: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A verb and a path; ``GET`` serves ``HEAD`` too.

    A part in braces at the end of the path may hold slashes.
    """

    method: str
    path: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A way of speaking.

    Args:
        to_error: Body of an error, as JSON.
        statuses: Where they differ from the common table.
        tells_routes: Whether a wrong verb on one of its paths is told in its own shape.
    """

    name: str
    routes: tuple[Route, ...]
    to_error: Callable[[Failure], bytes]
    statuses: Mapping[type[EmbeddError], int] = field(default_factory=dict)
    tells_routes: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharer:
    """A dialect that answers some of the bodies on a path of another dialect.

    Args:
        wants: Whether it is this one's, by the fields that are not null.
    """

    dialect: Dialect
    endpoint: Endpoint
    wants: Callable[[frozenset[str]], bool]


async def embed_body(
    request: web.Request, kind: type[Body], to_request: Callable[[Body, Policy], EmbedRequest]
) -> tuple[EmbedRequest, EmbedResult]:
    """Read, translate and compute: what was asked, with its model's name, and the result.

    Raises:
        EmbeddError: As `Embedder.embed`, and for a body that cannot be read or translated.
    """
    arrived = time.perf_counter()
    async with request.app[BODIES].read(request) as data:
        asked = to_request(decode_plainly(data, kind), request.app[POLICY])
        model = asked.model or await choose_model(request.app, "embedding")
        asked = replace(asked, model=model, store=may_store(request))
        with naming_the_model(model):
            return asked, await request.app[EMBEDDER].embed(asked, arrived=arrived)


@contextmanager
def naming_the_model(name: str) -> Iterator[None]:
    """Whoever waited in vain is told for which model."""
    try:
        yield
    except LoadTimeoutError as error:
        raise LoadTimeoutError(f'model "{name}" is still loading') from error


def may_store(request: web.Request) -> bool:
    """Whether vectors may come from the cache and go to it (RFC 9111, ``no-store``)."""
    return "no-store" not in request.headers.get("Cache-Control", "").lower()


async def choose_model(app: web.Application, capability: str) -> str:
    """The model of a request that names none: the default, or the only one that can do it.

    Raises:
        InvalidInputError: There is no such model, or more than one.
    """
    policy = app[POLICY]
    default = policy.default_model
    if capability == "rerank":
        default = policy.default_rerank_model or default
    if default is not None:
        return default
    entries = await asyncio.to_thread(app[LIBRARY].list)
    names = [entry.name for entry in entries if capability in entry.capabilities]
    if len(names) != 1:
        raise InvalidInputError("no model given and default_model is not set", field="model")
    return names[0]


def computed_headers(result: Result) -> dict[str, str]:
    """What every computed answer says in its headers, in every dialect."""
    if result.served_by is None:
        return {}
    digest = result.served_by.digest.removeprefix("sha256:")[:12]
    headers = {
        "Server-Timing": _server_timing(result),
        "X-Embedd-Model": (
            f"{digest};engine={result.served_by.engine};backend={result.served_by.backend}"
            f";tokenizer={TOKENIZER}"
        ),
    }
    if result.truncated:
        headers["X-Embedd-Truncated"] = _index_list([one.index for one in result.truncated])
    if result.warnings:
        warnings = "; ".join(result.warnings)
        headers["X-Embedd-Warning"] = warnings.encode("ascii", "backslashreplace").decode()
    if isinstance(result, EmbedResult) and result.quantized.keys() & {DType.INT8, DType.UINT8}:
        headers["X-Embedd-Quantization"] = _quantization(result.int8_range)
    return headers


def _quantization(int8_range: float | None) -> str:
    if int8_range is None:
        return "int8;scale=vector"
    return f"int8;scale=fixed;range={int8_range:g}"


def _server_timing(result: Result) -> str:
    timings = result.timings
    text = (
        f"tokenize;dur={1000 * timings.tokenize:.3f}, queue;dur={1000 * timings.queue:.3f}, "
        f"compute;dur={1000 * timings.compute:.3f}, total;dur={1000 * timings.total:.3f}"
    )
    if timings.load:
        text = f"load;dur={1000 * timings.load:.3f}, {text}"
    if reused := sum(result.reused.values()):
        text += f', cache;desc="{reused} of {len(result.tokens)} reused"'
    return text


def _index_list(indices: list[int]) -> str:
    text = ",".join(map(str, indices))
    if len(text) <= LONGEST_INDEX_LIST:
        return text
    end = text.rindex(",", 0, LONGEST_INDEX_LIST - len(",...") + 1)
    return text[:end] + ",..."
