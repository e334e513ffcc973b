"""TEI's ``/embed`` and ``/embed_all``, and the headers of all its answers."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from embedd.engine.backends import LLAMA_GPU
from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.chunk import refuse_chunk
from embedd.server.dialects.common.openai_input import parse_inputs
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.vector_json import float_rows
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.dialects.tei.fields import Parameters, parse_cut
from embedd.server.http.json_out import Parts, Rows, parts_response, vector_rows
from embedd.types import DimensionCheck, EmbedRequest, EmbedResult, Normalize, Result


class EmbedBody(Parameters):
    """Body of ``POST /embed``."""

    inputs: Any = None
    model: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    chunk: Any = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/embed`` as an `EmbedRequest`; the model may be missing.

    Raises:
        InvalidInputError: A field is missing or unknown.
    """
    refuse_chunk(body.chunk)
    if body.inputs is None:
        raise InvalidInputError("`inputs` must be provided", field="inputs")
    try:
        inputs = parse_inputs(body.inputs, policy)
    except EmptyInputError:
        inputs = [""]
    if any(isinstance(one, str) and not one for one in inputs):
        raise EmptyInputError("`inputs` cannot be empty", field="inputs")
    prompt = parse_prompt(prompt_name=body.prompt_name)
    return EmbedRequest(
        model=body.model or "",
        inputs=inputs,
        truncate=parse_cut(truncate=body.truncate, direction=body.truncation_direction),
        dimensions=body.dimensions,
        dimension_check=DimensionCheck.STRICT,
        normalize=Normalize.NONE if body.normalize is False else Normalize.L2,
        prompt=prompt,
    )


def to_token_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/embed_all`` as an `EmbedRequest`.

    Raises:
        InvalidInputError: A field is missing or unknown.
    """
    return replace(to_request(body, policy), dimensions=None, per_token=True)


def to_token_reply(result: EmbedResult) -> Parts:
    """For each input a list with the vector of each of its tokens."""
    parts: list[bytes | Rows] = []
    end = 0
    for count in result.tokens:
        start, end = end, end + count
        parts += [b",[" if parts else b"[[", _token_rows(result, start, end), b"]"]
    return [*parts, b"]"]


def _token_rows(result: EmbedResult, start: int, end: int) -> Rows:
    return vector_rows(result.vectors[start:end], result.vectors.shape[1])


def tei_headers(wanted: EmbedRequest, result: Result) -> dict[str, str]:
    """TEI's own headers beside ours, in whole milliseconds."""
    backend = result.served_by.backend if result.served_by else ""
    timings = result.timings
    seconds = {
        "x-compute-time": timings.total,
        "x-total-time": timings.total,
        "x-tokenization-time": timings.tokenize,
        "x-queue-time": timings.queue,
        "x-inference-time": timings.compute,
    }
    return {
        **computed_headers(result),
        "x-compute-type": "gpu" if backend == LLAMA_GPU.name else "cpu",
        "x-compute-characters": str(_count_characters(wanted.inputs)),
        "x-compute-tokens": str(sum(result.tokens)),
        **{name: str(round(1000 * value)) for name, value in seconds.items()},
    }


def _count_characters(inputs: Sequence[object]) -> int:
    return sum(len(one) for one in inputs if isinstance(one, str))


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /embed``."""
    wanted, result = await embed_body(request, EmbedBody, to_request)
    parts: Parts = [b"[", float_rows(result), b"]"]
    return await parts_response(request, parts, tei_headers(wanted, result))


async def embed_all(request: web.Request) -> web.StreamResponse:
    """``POST /embed_all``."""
    wanted, result = await embed_body(request, EmbedBody, to_token_request)
    return await parts_response(request, to_token_reply(result), tei_headers(wanted, result))
