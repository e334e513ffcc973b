"""TEI's ``/similarity``: cosines of one sentence with others."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.openai_input import check_inputs
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.endpoints import embed_body
from embedd.server.dialects.tei.embed import tei_headers
from embedd.server.dialects.tei.fields import Parameters, parse_cut
from embedd.server.http.json_out import dump_rows, parts_response
from embedd.types import EmbedRequest, EmbedResult


class Sentences(msgspec.Struct):
    """``inputs`` of ``POST /similarity``."""

    source_sentence: str
    sentences: list[str]


class SimilarityBody(msgspec.Struct):
    """Body of ``POST /similarity``."""

    inputs: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    model: str | None = None


def to_request(body: SimilarityBody, policy: Policy) -> EmbedRequest:
    """``/similarity`` as an `EmbedRequest`: the source sentence is the first input.

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


def to_similarities(result: EmbedResult) -> bytes:
    """The cosine of the first vector with each of the others."""
    # The source is the first of the distinct vectors too.
    cosines = np.clip(result.vectors @ result.vectors[0], -1, 1)
    return b"[%b]" % dump_rows((cosines if result.rows is None else cosines[result.rows])[1:])


async def similarity(request: web.Request) -> web.StreamResponse:
    """``POST /similarity``."""
    wanted, result = await embed_body(request, SimilarityBody, to_request)
    parts = [to_similarities(result)]
    return await parts_response(request, parts, tei_headers(wanted, result))
