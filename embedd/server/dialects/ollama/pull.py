"""Ollama's ``/api/pull``; ``/api/push`` is refused."""

from aiohttp import web

from embedd.errors import UnsupportedError
from embedd.library import ReportProgress
from embedd.names import parse_model_name
from embedd.ollama_api import PullBody
from embedd.server.dialects.base import BODIES, LIBRARY
from embedd.server.dialects.ollama.errors import to_error_line
from embedd.server.dialects.ollama.fields import name_in
from embedd.server.http.bodies import decode
from embedd.server.http.streams import Stop, answer_streamed, answer_whole, follow


async def pull(request: web.Request) -> web.StreamResponse:
    """``POST /api/pull``."""
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode(data, PullBody))
    name = name_in(body)
    parse_model_name(name)
    library = request.app[LIBRARY]

    def work(report: ReportProgress, stop: Stop) -> None:
        library.pull(name, report, stop=stop, insecure=bool(body.insecure))

    lines = follow(request, work, resumes=True)
    if body.stream is False:
        return await answer_whole(lines)
    return await answer_streamed(request, lines, to_error_line)


async def push(_: web.Request) -> web.StreamResponse:
    """``POST /api/push``."""
    raise UnsupportedError("pushing models is not supported")
