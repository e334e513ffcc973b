"""TEI's ``/tokenize`` and ``/decode``: tokens with their places in the text, texts of tokens."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from aiohttp import web
from msgspec import Struct

from embedd.errors import EmptyInputError, InvalidInputError
from embedd.server.dialects.base import POLICY, Policy
from embedd.server.dialects.common.openai_input import check_count, check_inputs, parse_ids
from embedd.server.dialects.common.prompts import parse_prompt
from embedd.server.dialects.common.token_json import text_parts, token_rows
from embedd.server.dialects.endpoints import detokenize_body, tokenize_body
from embedd.server.http.bodies import decode_plainly
from embedd.server.http.json_out import Parts, Rows, dump, parts_response
from embedd.types import ClientIds, Offsets, TokenIds, Tokenized, TokenizeRequest, TokenPiece

QUICK_CHARACTERS: Final = 4096  # whose places are converted in some 20 µs: more go to a thread
ENCODED_AT_A_TIME: Final = 1 << 18  # characters, in less than a millisecond


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


class Token(Struct, frozen=True, kw_only=True):
    """A token of ``/tokenize``: its place in bytes of UTF-8, none for those around a text."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


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
        with_offsets=True,
    )


def to_sequences(ids: object, policy: Policy) -> list[ClientIds]:
    """The sequences of ``/decode``: a list of ids, or a list of such lists.

    Raises:
        InvalidInputError: They are neither, or there are too many.
    """
    if ids is None:
        raise InvalidInputError("`ids` must be provided", field="ids")
    if isinstance(ids, list) and not ids:
        raise EmptyInputError("`ids` cannot be empty", field="ids")
    nested = isinstance(ids, list) and isinstance(ids[0], list | np.ndarray)
    rows = ids if nested and isinstance(ids, list) else [ids]
    check_count(rows, policy.max_inputs, "ids")  # before they are converted
    sequences = [parse_ids("ids", row, index) for index, row in enumerate(rows)]
    check_inputs(sequences, policy, "ids")
    return sequences


def to_reply(texts: Sequence[str], results: Sequence[Tokenized]) -> Parts:
    """A list of tokens for each text; places count from the start of its prompt."""
    parts: list[bytes | Rows] = []
    for text, tokens in zip(texts, results, strict=True):
        parts += [b",[" if parts else b"[[", *_to_parts(tokens.prefix + text, tokens), b"]"]
    return [*parts, b"]"]


def to_bytes(data: bytes, offsets: Offsets) -> Offsets:
    """Convert places in characters of a text to places in *data*, the text in UTF-8."""
    # A byte that does not continue a character begins one.
    starts = np.flatnonzero((np.frombuffer(data, np.uint8) & 0xC0) != 0x80)
    return np.append(starts, len(data)).astype(np.int32)[offsets]


def _to_parts(text: str, tokens: Tokenized) -> Parts:
    """The tokens of *text* and of its frame, separated by commas."""
    before, after = tokens.frame
    end = len(tokens.ids) - len(after)
    rows = _to_rows(text, tokens.ids[len(before) : end], tokens.offsets)
    parts: list[bytes | Rows] = [_dump_frame(tokens.ids[: len(before)], before)]
    parts += [rows] if rows.count else []
    parts += [_dump_frame(tokens.ids[end:], after)]
    kept = [part for part in parts if part]
    return [piece for part in kept for piece in (b",", part)][1:]


def _dump_frame(ids: TokenIds, pieces: Sequence[TokenPiece]) -> bytes:
    tokens = [
        Token(id=id_, text=piece.text.decode("utf-8", "replace"), special=True)
        for id_, piece in zip(ids.tolist(), pieces, strict=True)
    ]
    return dump(tokens)[1:-1]


def _to_rows(text: str, ids: TokenIds, offsets: Offsets | None) -> Rows:
    data = _to_utf8(text)
    places = np.empty((0, 2), np.int32) if offsets is None else offsets
    if len(data) > len(text):
        places = to_bytes(data, places)

    def describe(part: slice) -> list[Token]:
        tokens = zip(ids[part].tolist(), places[part].tolist(), strict=True)
        return [
            Token(
                id=id_,
                text=data[start:stop].decode("utf-8", "replace"),
                special=False,
                start=start,
                stop=stop,
            )
            for id_, (start, stop) in tokens
        ]

    return token_rows(len(ids), describe)


def _to_utf8(text: str) -> bytes:
    """Encode *text* in slices: encoding holds the interpreter's lock."""
    starts = range(0, len(text), ENCODED_AT_A_TIME)
    slices = (text[start : start + ENCODED_AT_A_TIME] for start in starts)
    return b"".join(one.encode("utf-8", "replace") for one in slices)


async def tokenize(request: web.Request) -> web.StreamResponse:
    """``POST /tokenize`` with ``inputs``."""
    wanted, results = await tokenize_body(request, TokenizeBody, to_request)
    texts = [str(one) for one in wanted.inputs]
    if sum(map(len, texts)) <= QUICK_CHARACTERS:
        return await parts_response(request, to_reply(texts, results), {})
    return await parts_response(request, await asyncio.to_thread(to_reply, texts, results), {})


async def decode(request: web.Request) -> web.StreamResponse:
    """``POST /decode``."""
    policy = request.app[POLICY]

    def translate(data: bytearray) -> tuple[str | None, list[ClientIds], bool]:
        body = decode_plainly(data, DecodeBody, policy.max_inputs)
        return body.model, to_sequences(body.ids, policy), body.skip_special_tokens is False

    texts = await detokenize_body(request, translate)
    parts = [part for text in texts for part in (b",", *text_parts(text))]
    return await parts_response(request, [b"[", *parts[1:], b"]"], {})
