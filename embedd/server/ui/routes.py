"""The routes of the page: its files, the live figures, the catalogue."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import web

from embedd.catalog.catalog import AnyRecipe
from embedd.catalog.recipe import Recipe
from embedd.errors import UnknownRouteError
from embedd.server.access.auth import may_manage
from embedd.server.dialects.base import ENDLESS, HTML, LIBRARY, Dialect, Route
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import dump, json_response
from embedd.server.http.page_files import file_response
from embedd.server.http.shutdown import SHUTDOWN
from embedd.server.ui.live import Live

LIVE: Final = web.AppKey("live", Live)
EVENTS: Final = "text/event-stream"
STATIC: Final = files("embedd.server.ui") / "static"
SCRIPT, STYLE = "text/javascript", "text/css"
FILES: Final = {
    "index.html": HTML,
    "style.css": STYLE,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "parts.js": SCRIPT,
    "maths.js": SCRIPT,
    "models.js": SCRIPT,
    "try.js": SCRIPT,
    "search.js": SCRIPT,
    "live.js": SCRIPT,
    "images.js": SCRIPT,
    "vendor/preact.js": SCRIPT,
    "vendor/uplot.js": SCRIPT,
    "vendor/uplot.css": STYLE,
    "vendor/NOTICE.txt": "text/plain",
}


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be pulled by a short name, with its tags; `kind` is `text` or `image`."""

    name: str
    description: str
    license: str
    tags: list[str]
    kind: str


class KeyAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a key allows besides using models: `manage` is to pull, create, copy and delete them."""

    manage: bool


async def page(request: web.Request) -> web.StreamResponse:
    """``GET /ui``. Its addresses are relative: without the slash they would lead elsewhere."""
    if not request.path.endswith("/"):
        raise web.HTTPFound(f"{request.path.rsplit('/', 1)[-1]}/")
    return _static("index.html")


async def asset(request: web.Request) -> web.StreamResponse:
    """``GET /ui/{file}``."""
    return _static(request.match_info["file"].rstrip("/"))


def _static(name: str) -> web.Response:
    # Only what is listed: a name from the network never becomes a path.
    if name not in FILES:
        raise UnknownRouteError(f"no such file: {name}")
    return file_response(STATIC.joinpath(*name.split("/")).read_bytes(), FILES[name])


async def catalogue(request: web.Request) -> web.StreamResponse:
    """``GET /ui/catalogue``: what can be pulled by a short name."""
    return json_response([_describe(recipe) for recipe in request.app[LIBRARY].search()])


def _describe(recipe: AnyRecipe) -> CatalogueModel:
    return CatalogueModel(
        name=recipe.name,
        description=recipe.description,
        license=recipe.license,
        tags=list(recipe.tags),
        kind="text" if isinstance(recipe, Recipe) else "image",
    )


async def access(request: web.Request) -> web.StreamResponse:
    """``GET /ui/access``: what the key of this request allows."""
    return json_response(KeyAccess(manage=may_manage(request)))


async def live(request: web.Request) -> web.StreamResponse:
    """``GET /ui/live``: an event with the samples that are kept, then one for each new sample."""
    request[ENDLESS] = True
    async with request.app[LIVE].follow() as (kept, coming):
        response = web.StreamResponse(
            headers={
                "Content-Type": EVENTS,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # for nginx, which would wait for more
            }
        )
        await response.prepare(request)
        samples = kept
        while not request.app[SHUTDOWN].has_begun:
            await response.write(b"data: " + dump(samples) + b"\n\n")
            samples = [await coming.get()]
        await response.write_eof()
        return response


async def watch_live(app: web.Application) -> AsyncIterator[None]:
    """Take the samples of `GET /ui/live` while *app* serves (a cleanup context)."""
    task = asyncio.create_task(app[LIVE].watch())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


DIALECT = Dialect(
    name="page",
    routes=(
        Route(method="GET", path="/ui", endpoint=page, reply=str, media=HTML),
        Route(method="GET", path="/ui/{file}", endpoint=asset, reply=str, media=HTML),
        Route(method="GET", path="/ui/live", endpoint=live, reply=str, media=EVENTS),
        Route(method="GET", path="/ui/access", endpoint=access, reply=KeyAccess),
        Route(method="GET", path="/ui/catalogue", endpoint=catalogue, reply=list[CatalogueModel]),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
