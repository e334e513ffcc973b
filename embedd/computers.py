"""What computes a bulk job: servers, or a runtime in this process."""

import json
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from embedd.bulk.compute import Compute, MixedBackendsError, Wanted, make_local_compute
from embedd.bulk.job import Model
from embedd.config import Address, Settings
from embedd.errors import InvalidInputError, RequestError, UnsupportedError
from embedd.types import Arrays, Priority

if TYPE_CHECKING:
    from embedd.client import Client

# Opens a client of the server at an address.
Connect: TypeAlias = "Callable[[Address], AbstractAsyncContextManager[Client]]"

PROBE = "The quick brown fox jumps over the lazy dog."
# Of a request; an answer of a server has the limit nowhere else.
_CHUNK_TOO_LONG: Final = re.compile(r"chunk\.tokens is \d+, it must be between 1 and (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Computers:
    """What computes a job, and what decides its vectors.

    Args:
        served_by: What computes, as ``X-Embedd-Model`` says it.
        places: Where, for people.
    """

    computes: Sequence[Compute]
    model: Model
    served_by: str
    places: Sequence[str]


@asynccontextmanager
async def open_computers(
    settings: Settings,
    wanted: Wanted,
    addresses: Sequence[Address],
    *,
    connect: Connect,
    mixed: bool,
) -> AsyncIterator[Computers]:
    """Yield the servers at *addresses*; without any, a runtime of this process.

    Each is asked for a vector, so that a model or an option that is wrong is known at once.

    Raises:
        EmbeddError: One of them does not answer, or cannot compute what is wanted.
        MixedBackendsError: They compute with different backends.
    """
    async with AsyncExitStack() as stack:
        if not addresses:
            yield await _open_local(stack, settings, wanted)
            return
        found = [
            await _open_server(await stack.enter_async_context(connect(one)), wanted, one.url)
            for one in addresses
        ]
        first = found[0]
        for one in found[1:]:
            if one.served_by != first.served_by and not mixed:
                raise MixedBackendsError(first.served_by, one.served_by)
        yield replace(
            first,
            computes=[compute for one in found for compute in one.computes],
            places=[place for one in found for place in one.places],
        )


async def _open_local(stack: AsyncExitStack, settings: Settings, wanted: Wanted) -> Computers:
    from embedd.runtime import open_runtime  # noqa: PLC0415 - only a runtime needs its parts

    runtime = await stack.enter_async_context(
        open_runtime(replace(settings, max_wait=math.inf))  # the queue has only our own requests
    )
    parameters = runtime.embedder.find(wanted.model).parameters
    compute = make_local_compute(runtime.embedder, wanted)
    prefixes = {"query": parameters.query_prefix, "document": parameters.document_prefix}
    prefix = prefixes.get(wanted.input_type or "", "")
    return _to_computers(compute, await _probe(compute, wanted), prefix, "this process")


async def _open_server(client: "Client", wanted: Wanted, url: str) -> Computers:
    compute = make_server_compute(client, wanted)
    probe = await _probe(compute, wanted)
    return _to_computers(compute, probe, await _find_prefix(client, wanted), url)


async def _probe(compute: Compute, wanted: Wanted) -> Arrays:
    """Return a vector of a short text.

    Raises:
        InvalidInputError: Chunks are longer than what the model takes.
        EmbeddError: As what computes raises it.
    """
    try:
        return await compute([PROBE])
    except RequestError as error:
        found = _CHUNK_TOO_LONG.match(str(error))
        if found is None:
            raise
        raise InvalidInputError(
            f"--chunk is {wanted.chunk}, the model takes {found[1]} tokens at most: choose fewer, "
            "or leave --chunk out for one vector of each text"
        ) from error


def make_server_compute(client: "Client", wanted: Wanted) -> Compute:
    """Return what lets the server of *client* compute *wanted*."""
    chunk = None if wanted.chunk is None else {"tokens": wanted.chunk, "overlap": wanted.overlap}

    async def compute(texts: Sequence[str]) -> Arrays:
        return await client.embed_arrays(
            wanted.model,
            texts,
            truncate=wanted.truncate if wanted.cut else False,
            chunk=chunk,
            dimensions=wanted.dimensions,
            dtype=wanted.dtype,
            input_type=wanted.input_type,
            priority=Priority.BULK,
            store=False,
        )

    return compute


async def _find_prefix(client: "Client", wanted: Wanted) -> str:
    """The prefix of the input type, from the parameters that the server shows of the model."""
    shown = await client.show(wanted.model)
    lines = shown.parameters.splitlines() if isinstance(shown.parameters, str) else []
    for line in lines:
        name, _, value = line.partition(" ")
        if name == f"{wanted.input_type}_prefix":
            return str(json.loads(value))
    return ""


def _to_computers(compute: Compute, probe: Arrays, prefix: str, place: str) -> Computers:
    if not probe.served_by:
        raise UnsupportedError(
            f"{place} does not say what computes: bulk needs an embedd server, or "
            "--local, which computes in this process"
        )
    digest = probe.served_by.partition(";")[0]
    model = Model(digest=digest, prefix=prefix, width=probe.vectors.shape[1])
    return Computers(computes=[compute], model=model, served_by=probe.served_by, places=[place])
