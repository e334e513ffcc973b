"""Cohere's ``/v1/tokenize`` and ``/v1/detokenize``."""

from typing import Final

from aiohttp import web
from msgspec import Struct

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.openai_input import parse_ids
from embedd.server.dialects.endpoints import DetokenizeBody, detokenize_body, tokenize_body
from embedd.server.http.json_out import json_response
from embedd.types import ClientIds, TokenizeRequest

META: Final = {"api_version": {"version": "1"}}


class TokenizeBody(Struct):
    """Body of ``POST /v1/tokenize``."""

    text: str | None = None
    model: str | None = None


def to_request(body: TokenizeBody, _: Policy) -> TokenizeRequest:
    """``/v1/tokenize`` as a `TokenizeRequest`.

    Raises:
        EmptyInputError: The text is missing or empty.
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


def to_sequence(body: DetokenizeBody) -> ClientIds:
    """The token ids of ``/v1/detokenize``.

    Raises:
        InvalidInputError: They are missing, or not a list of token ids.
    """
    if body.tokens is None:
        raise InvalidInputError("tokens must be provided", field="tokens")
    return parse_ids("tokens", body.tokens)


async def detokenize(request: web.Request) -> web.StreamResponse:
    """``POST /v1/detokenize``."""
    text = await detokenize_body(request, to_sequence)
    return json_response({"text": text, "meta": META})
