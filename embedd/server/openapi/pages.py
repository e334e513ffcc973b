"""The OpenAPI document, and a page that shows it and sends requests, without any network."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import openapi_ui_bundles
from aiohttp import web

from embedd.errors import UnknownRouteError
from embedd.server.dialects.base import HTML, Dialect, Route
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.http.json_out import JSON
from embedd.server.http.page_files import file_response
from embedd.server.http.paths import BASE_PATH

# Makes the document; set by the app, which alone knows all dialects.
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("document")
# Files by name: where they are, and their content types.
SWAGGER_UI: Final = openapi_ui_bundles.swagger_ui.static_path
SVG: Final = "image/svg+xml"
STATIC: Final = files("embedd.server.openapi") / "static"
FILES: Final = {
    "index.html": (STATIC / "index.html", "text/html"),
    "docs.js": (STATIC / "docs.js", "text/javascript"),
    "docs.css": (STATIC / "docs.css", "text/css"),
    "welcome.css": (STATIC / "welcome.css", "text/css"),
    "swagger-ui-bundle.js": (SWAGGER_UI / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (SWAGGER_UI / "swagger-ui.css", "text/css"),
}
# They belong to one version of embedd; the others are large and change with their library.
OWN: Final = ("index.html", "docs.js", "docs.css", "welcome.css")


async def document(request: web.Request) -> web.StreamResponse:
    """``GET /openapi.json``."""
    return web.Response(body=request.app[DOCUMENT](), headers={"Content-Type": JSON})


async def page(request: web.Request) -> web.StreamResponse:
    """``GET /docs``."""
    return _static("index.html", request.app[BASE_PATH])


async def asset(request: web.Request) -> web.StreamResponse:
    """``GET /docs/{file}``."""
    return _static(request.match_info["file"].rstrip("/"))


async def icon(_: web.Request) -> web.StreamResponse:
    """``GET /favicon.ico``, which browsers ask for beside every page."""
    return file_response((STATIC / "icon.svg").read_bytes(), SVG, cache="max-age=86400")


def _static(name: str, base_path: str = "") -> web.Response:
    # Only what is listed: a name from the network never becomes a path.
    if name not in FILES:
        raise UnknownRouteError(f"no such file: {name}")
    file, kind = FILES[name]
    body = file.read_bytes()
    if base_path:  # the page's addresses are absolute, because it is at `/docs` and `/docs/`
        body = body.replace(b'"/', f'"{base_path}/'.encode())
    return file_response(body, kind, cache="no-cache" if name in OWN else "max-age=3600")


DIALECT = Dialect(
    name="documents",
    routes=(
        Route(method="GET", path="/openapi.json", endpoint=document, reply=dict[str, Any]),
        Route(method="GET", path="/docs", endpoint=page, reply=str, media=HTML),
        Route(method="GET", path="/docs/{file}", endpoint=asset, reply=str, media=HTML),
        Route(method="GET", path="/favicon.ico", endpoint=icon, reply=str, media=SVG),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
