"""The API of Hugging Face's text-embeddings-inference: vectors, similarity, the model."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from embedd import __version__
from embedd.engine.backends import LLAMA_GPU
from embedd.errors import EmptyInputError, InvalidInputError
from embedd.resolve import ResolvedModel
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    POLICY,
    Dialect,
    Policy,
    Route,
    choose_model,
    computed_headers,
    embed_body,
)
from embedd.server.dialects.common.openai_input import check_inputs, parse_forms
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.tei import rerank as tei_rerank
from embedd.server.dialects.tei import tokens as tei_tokens
from embedd.server.dialects.tei.errors import STATUSES, to_error
from embedd.server.dialects.tei.fields import NULL, parse_cut
from embedd.server.http.bodies import ALREADY_READ, decode_plainly
from embedd.server.http.json_out import (
    Parts,
    Rows,
    dump_rows,
    json_response,
    parts_response,
    vector_rows,
)
from embedd.server.ops.health import health
from embedd.types import (
    DimensionCheck,
    EmbedRequest,
    EmbedResult,
    Normalize,
    Pooling,
    Result,
)

MAX_BATCH_TOKENS = 16384
MAX_REQUESTS = 512
POOLINGS: Mapping[Pooling, str] = {Pooling.LAST: "last_token"}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class EmbedBody(msgspec.Struct):
    """Body of ``POST /embed``."""

    inputs: msgspec.Raw = NULL
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None


class RootBody(msgspec.Struct):
    """Of a body of ``POST /`` what tells which request it is."""

    inputs: msgspec.Raw = NULL
    query: Any = None
    texts: Any = None


class Sentences(msgspec.Struct):
    """``inputs`` of ``POST /similarity``."""

    source_sentence: str
    sentences: list[str]


class Parameters(msgspec.Struct):
    """``parameters`` of ``POST /similarity``."""

    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None


class SimilarityBody(msgspec.Struct):
    """Body of ``POST /similarity``."""

    inputs: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    model: str | None = None


def to_request(body: EmbedBody, policy: Policy) -> EmbedRequest:
    """``/embed`` in the words of the core.

    Raises:
        InvalidInputError: A field is missing or unknown.
    """
    if bytes(body.inputs).strip() == b"null":
        raise InvalidInputError("`inputs` must be provided", field="inputs")
    try:
        inputs = parse_forms(bytes(body.inputs), policy)
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
    """``/embed_all`` in the words of the core.

    Raises:
        InvalidInputError: A field is missing or unknown.
    """
    body.dimensions = None
    return replace(to_request(body, policy), per_token=True)


def to_similarity_request(body: SimilarityBody, policy: Policy) -> EmbedRequest:
    """``/similarity`` in the words of the core: the source is the first input.

    Raises:
        InvalidInputError: A field is missing or of the wrong type.
    """
    sentences = _convert("inputs", body.inputs or {}, Sentences)
    parameters = _convert("parameters", body.parameters or {}, Parameters)
    if not sentences.sentences:
        raise EmptyInputError("`inputs.sentences` cannot be empty", field="inputs")
    check_inputs(sentences.sentences, policy, "inputs")
    prompt = parse_prompt(prompt_name=parameters.prompt_name)
    cut = parse_cut(truncate=parameters.truncate, direction=parameters.truncation_direction)
    return EmbedRequest(
        model=body.model or "",
        inputs=[sentences.source_sentence, *sentences.sentences],
        truncate=cut,
        prompt=prompt,
    )


def _convert(field: str, value: Mapping[str, Any], kind: Any) -> Any:
    fields = {name: one for name, one in value.items() if one is not None}
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"`{field}` is wrong: {error}", field=field) from None


def to_token_reply(result: EmbedResult) -> Parts:
    """For each input a list with the vector of each of its tokens."""
    parts: list[bytes | Rows] = []
    end = 0
    for count in result.tokens:
        start, end = end, end + count
        parts += [b",[" if parts else b"[[", vector_rows(result.vectors[start:end]), b"]"]
    return [*parts, b"]"]


def to_similarities(result: EmbedResult) -> bytes:
    """The cosine of the first vector with each of the others."""
    source, others = result.vectors[0], result.vectors[1:]
    cosines = np.clip(others @ source, -1, 1)
    return b"[%b]" % dump_rows(cosines)


def tei_headers(asked: EmbedRequest, result: Result) -> dict[str, str]:
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
        "x-compute-characters": str(_count_characters(asked.inputs)),
        "x-compute-tokens": str(sum(result.tokens)),
        **{name: str(round(1000 * value)) for name, value in seconds.items()},
    }


def _count_characters(inputs: Sequence[object]) -> int:
    return sum(len(one) for one in inputs if isinstance(one, str))


async def embed(request: web.Request) -> web.StreamResponse:
    """``POST /embed``."""
    asked, result = await embed_body(request, EmbedBody, to_request)
    parts: Parts = [b"[", vector_rows(result.vectors), b"]"]
    return await parts_response(request, parts, tei_headers(asked, result))


async def embed_all(request: web.Request) -> web.StreamResponse:
    """``POST /embed_all``."""
    asked, result = await embed_body(request, EmbedBody, to_token_request)
    return await parts_response(request, to_token_reply(result), tei_headers(asked, result))


async def similarity(request: web.Request) -> web.StreamResponse:
    """``POST /similarity``."""
    asked, result = await embed_body(request, SimilarityBody, to_similarity_request)
    parts = [to_similarities(result)]
    return await parts_response(request, parts, tei_headers(asked, result))


async def root(request: web.Request) -> web.StreamResponse:
    """``POST /``: the body tells which of the requests it is."""
    async with request.app[BODIES].read(request) as data:
        request[ALREADY_READ] = data
        body = decode_plainly(data, RootBody)
        if body.query is not None and body.texts is not None:
            return await tei_rerank.rerank(request)
        if bytes(body.inputs).lstrip().startswith(b"{"):
            return await similarity(request)
        return await embed(request)


async def info(request: web.Request) -> web.StreamResponse:
    """``GET /info``: what is known of a model without loading it."""
    embedder = request.app[EMBEDDER]
    name = request.query.get("model") or await choose_model(request.app, "embedding")
    model = await asyncio.to_thread(embedder.find, name)
    return json_response(
        {
            "model_id": name,
            "model_sha": model.spec.digest,
            "model_dtype": DTYPES.get(model.facts.quantization, model.facts.quantization.lower()),
            "served_model_name": name,
            "model_type": _model_type(model),
            "max_concurrent_requests": MAX_REQUESTS,
            "max_input_length": embedder.limit(model),
            "max_batch_tokens": MAX_BATCH_TOKENS,
            "max_batch_requests": None,
            "max_client_batch_size": request.app[POLICY].max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


def _model_type(model: ResolvedModel) -> dict[str, object]:
    pooling = model.spec.pooling
    if not model.is_reranker:
        return {"embedding": {"pooling": POOLINGS.get(pooling, pooling.value)}}
    # Metadata only: names of labels are in the file, but only a loaded model tells them.
    facts = model.facts
    count = facts.arrays.get(f"{facts.architecture}.classifier.output_labels") or 1
    labels = [f"LABEL_{index}" for index in range(count)]
    return {
        "reranker": {
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    }


DIALECT = Dialect(
    name="tei",
    routes=(
        Route(method="POST", path="/", endpoint=root),
        Route(method="POST", path="/embed", endpoint=embed),
        Route(method="POST", path="/embed_all", endpoint=embed_all),
        Route(method="POST", path="/similarity", endpoint=similarity),
        Route(method="POST", path="/decode", endpoint=tei_tokens.decode),
        Route(method="GET", path="/info", endpoint=info),
        Route(method="GET", path="/ping", endpoint=health),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
