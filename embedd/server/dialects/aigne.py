"""AIGNE Hub's API: OpenAI's request on Ollama's older path, with a shorter answer."""

from aiohttp import web

from embedd.server.dialects.base import Dialect, Sharer, computed_headers, embed_body
from embedd.server.dialects.common.vector_json import items
from embedd.server.dialects.openai.embed import EmbedBody, to_request
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import Parts, dump, parts_response
from embedd.types import EmbedRequest, EmbedResult


def to_reply(asked: EmbedRequest, result: EmbedResult) -> Parts:
    """The list of vectors, with two keys of usage and no id."""
    tokens = sum(result.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return [
        b'{"object":"list","data":[',
        items(result, asked.formats),
        b"]," + dump({"model": asked.model, "usage": usage})[1:],
    ]


async def embeddings(request: web.Request) -> web.StreamResponse:
    """``POST /api/embeddings`` with ``input``."""
    asked, result = await embed_body(request, EmbedBody, to_request)
    return await parts_response(request, to_reply(asked, result), computed_headers(result))


DIALECT = Dialect(name="aigne", routes=(), to_error=to_error, statuses=STATUSES)

# With `prompt`, even an empty one, or with neither, the body is Ollama's.
SHARER = Sharer(
    dialect=DIALECT,
    endpoint=embeddings,
    wants=lambda fields: "input" in fields and "prompt" not in fields,
)
