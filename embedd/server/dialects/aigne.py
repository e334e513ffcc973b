"""AIGNE Hub's API: OpenAI's request on Ollama's older path, with a shorter answer."""

from functools import partial
from typing import Final

from aiohttp import web

from embedd.server.dialects.base import Dialect, Route
from embedd.server.dialects.endpoints import computed_headers, embed_body
from embedd.server.dialects.openai.embed import EmbedBody, EmbedReply, Usage, to_parts, to_request
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import Parts, parts_response
from embedd.types import EmbedRequest, EmbedResult

# Its clients send texts: an array of ids is the model's own.
TO_REQUEST: Final = partial(to_request, from_openai=False)


def to_reply(wanted: EmbedRequest, result: EmbedResult) -> Parts:
    """The list of vectors, with two keys of usage and no id."""
    tokens = sum(result.tokens)
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    return to_parts(EmbedReply(data=[], model=wanted.model, usage=usage), wanted, result)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/embeddings`` with ``input``."""
    wanted, result = await embed_body(request, EmbedBody, TO_REQUEST)
    return await parts_response(request, to_reply(wanted, result), computed_headers(result))


DIALECT = Dialect(
    name="aigne",
    routes=(
        Route(
            method="POST",
            path="/api/embeddings",
            endpoint=embeddings,
            body=EmbedBody,
            reply=EmbedReply,
            # With `prompt`, even an empty one, or with neither, the body is Ollama's.
            accepts=lambda fields: "input" in fields and "prompt" not in fields,
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
