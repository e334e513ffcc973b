"""Cohere's tokens: ids of a text, text of ids."""

from typing import Any

import msgspec
from aiohttp import web

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import BODIES, Policy
from embedd.server.dialects.endpoints import detokenize, parse_ids, tokenize_body
from embedd.server.http.bodies import decode_plainly
from embedd.server.http.json_out import json_response
from embedd.types import TokenizeRequest

META = {"api_version": {"version": "1"}}


class TokenizeBody(msgspec.Struct):
    """Body of ``POST /v1/tokenize``."""

    text: str | None = None
    model: str | None = None


class DetokenizeBody(msgspec.Struct):
    """Body of ``POST /v1/detokenize``."""

    tokens: Any = None
    model: str | None = None


def to_request(body: TokenizeBody, _: Policy) -> TokenizeRequest:
    """``/v1/tokenize`` in the words of the core.

    Raises:
        EmptyInputError: There is no text.
    """
    if not body.text:
        raise EmptyInputError("text must not be empty", field="text")
    return TokenizeRequest(
        model=body.model or "", inputs=[body.text], add_special=False, with_pieces=True
    )


async def tokenize(request: web.Request) -> web.StreamResponse:
    """``POST /v1/tokenize``."""
    _, [result] = await tokenize_body(request, TokenizeBody, to_request)
    strings = [piece.text.decode("utf-8", "replace") for piece in result.pieces]
    return json_response({"tokens": result.ids.tolist(), "token_strings": strings, "meta": META})


async def detokenize_tokens(request: web.Request) -> web.StreamResponse:
    """``POST /v1/detokenize``."""
    async with request.app[BODIES].read(request) as data:
        body = decode_plainly(data, DetokenizeBody)
        if body.tokens is None:
            raise InvalidInputError("tokens must be provided", field="tokens")
        ids = parse_ids("tokens", body.tokens)
        [text] = await detokenize(request, body.model, [ids], special=True)
        return json_response({"text": text, "meta": META})
