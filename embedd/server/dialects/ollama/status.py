"""Ollama's routes about the server itself: that it runs, its version, the models in memory."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.engine.image_spec import ImageSpec
from embedd.engine.spec import ModelInfo
from embedd.errors import EmbeddError
from embedd.ollama_api import Details, PsReply, RunningModel, VersionReply
from embedd.resolve import AnyModel, ResolvedModel
from embedd.scheduler.records import ModelStatus
from embedd.server.dialects.base import EMBEDDER, HTML, POLICY
from embedd.server.http.json_out import json_response
from embedd.server.http.page_files import file_response

SPOKEN = "0.33.0"  # the version of Ollama whose API this is
FOR_EVER = timedelta(seconds=(2**63 - 1) // 10**9)  # what Ollama shows: about 292 years
UI_LINK = """<li><a href="ui/">
<strong>The page</strong>
<small>models, similarity, search, live figures</small></a></li>
"""
WELCOME = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>embedd</title>
<link rel="icon" href="favicon.ico" type="image/svg+xml">
<link rel="stylesheet" href="docs/welcome.css">
<h1>embedd is running</h1>
<ul>
{UI_LINK}<li><a href="docs">
<strong>API</strong>
<small>all routes, to read and to try</small></a></li>
<li><a href="openapi.json">
<strong>OpenAPI</strong>
<small>the same as a document of OpenAPI 3.1</small></a></li>
<li><a href="health">
<strong>Health</strong>
<small>whether the server is healthy, as JSON</small></a></li>
</ul>
</html>
"""


async def root(request: web.Request) -> web.StreamResponse:
    """``GET /``: the text by which Ollama's clients know the server; links for browsers."""
    if HTML not in request.headers.get("Accept", ""):
        return web.Response(text="Ollama is running", headers={"Vary": "Accept"})
    text = WELCOME if request.app[POLICY].ui else WELCOME.replace(UI_LINK, "")
    response = file_response(text.encode(), HTML)
    response.headers["Vary"] = "Accept"
    return response


async def version(_: web.Request) -> web.StreamResponse:
    """``GET /api/version``."""
    return json_response(VersionReply(version=SPOKEN, embedd=__version__))


async def ps(request: web.Request) -> web.StreamResponse:
    """``GET /api/ps``: models in memory."""
    now = datetime.now(UTC).astimezone()
    embedder = request.app[EMBEDDER]
    models = [await to_running_model(one, embedder, now) for one in embedder.running()]
    return json_response(PsReply(models=models))


async def to_running_model(status: ModelStatus, embedder: Embedder, now: datetime) -> RunningModel:
    """Return a row of ``/api/ps``; without digest and details if its name was deleted."""
    name, info = status.spec.name, status.info
    ahead = FOR_EVER if math.isinf(status.expires_in) else timedelta(seconds=status.expires_in)
    limit = 0 if isinstance(status.spec, ImageSpec) else status.spec.context_length
    model: AnyModel | None = None
    try:
        model = await embedder.find_any_apart(name)
        if isinstance(model, ResolvedModel):
            limit = embedder.limit(model)
    except EmbeddError:
        pass  # its name was deleted
    return RunningModel(
        name=name,
        model=name,
        size=status.size,
        digest=model.manifest_digest if model else "",
        details=model.details.without_lengths() if model else Details(families=[]),
        expires_at=now + ahead,
        size_vram=info.gpu_bytes if info else 0,
        context_length=limit,
        state=msgspec.UNSET if info else "loading",
        engine=info.engine if info else msgspec.UNSET,
        backend=info.backend if info else msgspec.UNSET,
        tokenizer=info.tokenizer if isinstance(info, ModelInfo) else msgspec.UNSET,
    )
