"""llama.cpp's ``/tokenize`` and ``/detokenize``."""

from typing import Any

from aiohttp import web
from msgspec import Struct

from embedd.errors import InvalidInputError
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
from embedd.server.dialects.llamacpp.content import parse_one
from embedd.server.http.json_out import Parts, json_response, parts_response
from embedd.types import ClientIds, Tokenized, TokenizeRequest, TokenPiece


class TokenizeBody(Struct):
    """Body of ``POST /tokenize`` with ``content``."""

    content: Any = None
    inputs: Any = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class TokenizeReply(Struct):
    """Ids, or objects of an id and its ``piece``: a text, or bytes that are not UTF-8."""

    tokens: list[Any] = []


def to_request(body: TokenizeBody, policy: Policy) -> TokenizeRequest:
    """``/tokenize`` as a `TokenizeRequest`; the model may be missing.

    Raises:
        InvalidInputError: ``content`` is neither text nor a mix of texts and ids.
    """
    if body.content is None:
        raise InvalidInputError('"content" or "inputs" must be provided', field="content")
    if body.inputs is not None:
        raise InvalidInputError('use either "content" or "inputs"', field="content")
    inputs = [] if _is_empty(body.content) else [parse_one(body.content, policy)]
    return TokenizeRequest(
        model=body.model or "",
        inputs=inputs,
        add_special=bool(body.add_special),
        parse_special=body.parse_special is not False,
        with_pieces=bool(body.with_pieces),
    )


def _is_empty(content: object) -> bool:
    return isinstance(content, str | list) and not content


def to_reply(result: Tokenized, *, with_pieces: bool) -> Parts:
    """Ids, or ids with their texts: a list of bytes where a text is not UTF-8."""
    if not with_pieces:
        return insert_rows(TokenizeReply(), {"tokens": id_rows(result.ids)})

    def describe(part: slice) -> list[dict[str, object]]:
        pairs = zip(result.ids[part].tolist(), result.pieces[part], strict=True)
        return [{"id": id_, "piece": _to_text(piece)} for id_, piece in pairs]

    return insert_rows(TokenizeReply(), {"tokens": token_rows(len(result.ids), describe)})


def _to_text(piece: TokenPiece) -> str | list[int]:
    try:
        return piece.text.decode()
    except UnicodeDecodeError:
        return list(piece.text)


async def tokenize(request: web.Request) -> web.StreamResponse:
    """``POST /tokenize`` with ``content``."""
    wanted, results = await tokenize_body(request, TokenizeBody, to_request)
    if not results:
        return json_response(TokenizeReply())
    parts = to_reply(results[0], with_pieces=wanted.with_pieces)
    return await parts_response(request, parts, {})


def to_sequence(body: DetokenizeBody) -> ClientIds:
    """The token ids of ``/detokenize``.

    Raises:
        InvalidInputError: They are not a list of token ids.
    """
    return parse_ids("tokens", [] if body.tokens is None else body.tokens)


async def detokenize(request: web.Request) -> web.StreamResponse:
    """``POST /detokenize``."""
    [text] = await detokenize_body(request, to_translation(to_sequence))
    return await parts_response(request, [b'{"content":', *text_parts(text), b"}"], {})
