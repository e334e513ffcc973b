"""What all dialects that tokenize share: reading, the model, lists of ids."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.server.dialects.base import BODIES, EMBEDDER, POLICY, Policy, choose_model
from embedd.server.dialects.common.openai_input import to_ids
from embedd.server.http.bodies import Body, decode_plainly
from embedd.types import ClientIds, Tokenized, TokenizeRequest


async def tokenize_body(
    request: web.Request, kind: type[Body], to_request: Callable[[Body, Policy], TokenizeRequest]
) -> tuple[TokenizeRequest, list[Tokenized]]:
    """Read, translate and tokenize.

    Raises:
        EmbeddError: As `Embedder.tokenize`, and for a body that cannot be read or translated.
    """
    async with request.app[BODIES].read(request) as data:
        asked = to_request(decode_plainly(data, kind), request.app[POLICY])
        model = asked.model or await choose_model(request.app, "embedding")
        asked = replace(asked, model=model)
        return asked, await request.app[EMBEDDER].tokenize(asked)


async def detokenize(
    request: web.Request, model: str | None, sequences: Sequence[ClientIds], *, special: bool
) -> list[str]:
    """The text of each sequence.

    Raises:
        EmbeddError: As `Embedder.detokenize`.
    """
    name = model or await choose_model(request.app, "embedding")
    return await request.app[EMBEDDER].detokenize(name, sequences, special=special)


def parse_ids(field: str, value: object, index: int = 0) -> ClientIds:
    """One sequence of ids, which may be empty.

    Raises:
        InvalidInputError: Something else.
    """
    if not isinstance(value, list):
        raise InvalidInputError(f"{field} must be a list of token ids", field=field)
    return to_ids(value, index, place=f"{field}[{{}}]")
