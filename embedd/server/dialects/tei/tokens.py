"""TEI's ``/tokenize`` and ``/decode``: tokens with their places in the text, texts of tokens."""

from typing import Any

from aiohttp import web
from msgspec import Struct

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import BODIES, POLICY, Policy
from embedd.server.dialects.common.openai_input import check_inputs, parse_ids
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.endpoints import detokenize, tokenize_body
from embedd.server.dialects.tei.alignment import align
from embedd.server.http.bodies import decode_plainly
from embedd.server.http.json_out import json_response
from embedd.types import Tokenized, TokenizeRequest


class TokenizeBody(Struct):
    """Body of ``POST /tokenize`` with ``inputs``."""

    inputs: Any = None
    content: Any = None
    model: str | None = None
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class DecodeBody(Struct):
    """Body of ``POST /decode``."""

    ids: Any = None
    model: str | None = None
    skip_special_tokens: bool | None = None


def to_request(body: TokenizeBody, policy: Policy) -> TokenizeRequest:
    """``/tokenize`` as a `TokenizeRequest`; the model may be missing.

    Raises:
        InvalidInputError: ``inputs`` are not texts, or there are too many.
    """
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise InvalidInputError("`inputs` must be a string or a list of strings", field="inputs")
    if not texts:
        raise EmptyInputError("`inputs` cannot be empty", field="inputs")
    prompt = parse_prompt(prompt_name=body.prompt_name)
    return TokenizeRequest(
        model=body.model or "",
        inputs=check_inputs(texts, policy, "inputs"),
        add_special=body.add_special_tokens is not False,
        prompt=prompt,
        with_pieces=True,
    )


def to_reply(text: str, tokens: Tokenized) -> list[dict[str, object]]:
    """The tokens of *text*, its prompt included, with their places in bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    reply: list[dict[str, object]] = []
    spans = align(text, tokens.pieces)
    for id_, piece, span in zip(tokens.ids.tolist(), tokens.pieces, spans, strict=True):
        token_text = piece.text.strip() if span is None else data[span.start : span.stop]
        reply.append(
            {
                "id": id_,
                "text": token_text.decode("utf-8", "replace"),
                "special": piece.is_special,
                "start": span and span.start,
                "stop": span and span.stop,
            }
        )
    return reply


async def tokenize(request: web.Request) -> web.StreamResponse:
    """``POST /tokenize`` with ``inputs``."""
    wanted, results = await tokenize_body(request, TokenizeBody, to_request)
    texts = [str(one) for one in wanted.inputs]
    reply = [
        to_reply(result.prefix + text, result) for text, result in zip(texts, results, strict=True)
    ]
    return json_response(reply)


async def decode(request: web.Request) -> web.StreamResponse:
    """``POST /decode``."""
    async with request.app[BODIES].read(request) as data:
        body = decode_plainly(data, DecodeBody)
        if body.ids is None:
            raise InvalidInputError("`ids` must be provided", field="ids")
        if body.ids == []:
            raise EmptyInputError("`ids` cannot be empty", field="ids")
        nested = isinstance(body.ids, list) and isinstance(body.ids[0], list)
        rows = body.ids if nested else [body.ids]
        sequences = [parse_ids("ids", row, index) for index, row in enumerate(rows)]
        check_inputs(sequences, request.app[POLICY], "ids")
        special = body.skip_special_tokens is False
        return json_response(await detokenize(request, body.model, sequences, special=special))
