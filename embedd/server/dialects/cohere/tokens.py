"""Cohere's ``/v1/tokenize`` and ``/v1/detokenize``."""

from typing import Any, Final

from aiohttp import web
from msgspec import Struct, field

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import Policy
from embedd.server.dialects.common.openai_input import parse_ids
from embedd.server.dialects.common.token_json import id_rows, text_parts, token_rows
from embedd.server.dialects.common.vector_json import insert_rows
from embedd.server.dialects.endpoints import (
    DetokenizeBody,
    detokenize_body,
    to_translation,
    tokenize_body,
)
from embedd.server.http.json_out import dump, parts_response
from embedd.types import ClientIds, TokenizeRequest

META: Final = {"api_version": {"version": "1"}}


class TokenizeBody(Struct):
    """Body of ``POST /v1/tokenize``."""

    text: str | None = None
    model: str | None = None


class TokenizeReply(Struct):
    """Ids of the tokens, and what each stands for."""

    tokens: list[int] = []
    token_strings: list[str] = []
    meta: dict[str, Any] = field(default_factory=lambda: META)


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

    def describe(part: slice) -> list[str]:
        return [piece.text.decode("utf-8", "replace") for piece in result.pieces[part]]

    rows = {
        "tokens": id_rows(result.ids),
        "token_strings": token_rows(len(result.pieces), describe),
    }
    return await parts_response(request, insert_rows(TokenizeReply(), rows), {})


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
    [text] = await detokenize_body(request, to_translation(to_sequence))
    parts = [b'{"text":', *text_parts(text), b',"meta":%b}' % dump(META)]
    return await parts_response(request, parts, {})
