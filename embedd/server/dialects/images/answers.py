"""Answers with pictures: headers, JSON with base64, and the bytes themselves."""

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import msgspec
from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.images import ImageFormat, PaintRequest, PaintResult, Picture
from embedd.names import parse_model_name
from embedd.server.dialects.base import LIBRARY, PAINTER, POLICY
from embedd.server.dialects.images.events import SSE
from embedd.server.dialects.images.fields import FORMATS, MEDIA
from embedd.server.http.header_text import to_header_text
from embedd.server.http.json_out import JSON, dump
from embedd.server.http.schedule import Deadline, read_schedule

PICTURE: Final = "image/"
# Content types of answers that paint, besides JSON.
OTHER_MEDIA: Final = (SSE, *MEDIA.values())
DATA_URL: Final = "data:{media};base64,{data}"


def to_base64(picture: Picture) -> str:
    """The file as base64."""
    return base64.b64encode(picture.data).decode()


def to_data_url(picture: Picture, form: ImageFormat) -> str:
    """The file as a URL that contains it."""
    return DATA_URL.format(media=MEDIA[form], data=to_base64(picture))


def painted_headers(result: PaintResult, ignored: str = "") -> dict[str, str]:
    """Headers of an answer with pictures, the same in every dialect."""
    served_by = result.served_by
    digest = served_by.digest.removeprefix("sha256:")[:12]
    timings = result.timings
    headers = {
        "X-Embedd-Seed": ", ".join(str(picture.seed) for picture in result.pictures),
        # The engine's own name has a version in it, for people.
        "X-Embedd-Model": f"{digest};engine={served_by.engine};backend={served_by.backend}",
        "Server-Timing": ", ".join(
            f"{name};dur={1000 * getattr(timings, name):.1f}"
            for name in ("queue", "load", "sample", "decode", "total")
        ),
    }
    if result.warnings:
        headers["X-Embedd-Warning"] = to_header_text("; ".join(result.warnings))
    return {**headers, **ignored_header(ignored)}


def ignored_header(ignored: str) -> dict[str, str]:
    """The header with the fields that had no effect, if there are any."""
    return {"X-Embedd-Ignored": ignored} if ignored else {}


def accepted_format(request: web.Request) -> ImageFormat | None:
    """The format of the bytes that ``Accept`` asks for first; None if it asks for JSON."""
    first = request.headers.get("Accept", "").partition(",")[0].partition(";")[0].strip().lower()
    if not first.startswith(PICTURE):
        return None
    name = first.removeprefix(PICTURE)
    if name == "*":
        return ImageFormat.PNG
    if name not in FORMATS:
        raise InvalidInputError(
            f"Accept asks for {first[:40]}: image/png, image/jpeg and image/webp are possible"
        )
    return FORMATS[name]


def picture_response(result: PaintResult, ignored: str = "") -> web.Response:
    """The answer for ``Accept: image/…``: the file of the first picture."""
    picture = result.pictures[0]
    name = f"{picture.seed}.{result.format.value}"
    headers = {
        **painted_headers(result, ignored),
        "Content-Type": MEDIA[result.format],
        "Content-Disposition": f'inline; filename="{name}"',
    }
    return web.Response(body=picture.data, headers=headers)


async def json_with_pictures(
    make_reply: Callable[[], msgspec.Struct], headers: dict[str, str]
) -> web.Response:
    """Make an answer with pictures in it, which are megabytes, in a thread."""
    body = await asyncio.to_thread(lambda: dump(make_reply()))
    return web.Response(body=body, headers={**headers, "Content-Type": JSON})


async def paint_in_time(request: web.Request, wanted: PaintRequest) -> PaintResult:
    """Paint all pictures; they are cancelled when the time of *request* is over.

    Raises:
        DeadlineError: It is over.
        EmbeddError: As `Painter.paint_all`.
    """
    timeout = request.app[POLICY].request_timeout
    async with Deadline(read_schedule(request, arrived=time.perf_counter(), timeout=timeout)):
        return await request.app[PAINTER].paint_all(wanted)


async def answer_whole(
    request: web.Request,
    wanted: PaintRequest,
    make_reply: Callable[[PaintResult], msgspec.Struct],
    ignored: str = "",
) -> web.Response:
    """Paint, and answer with JSON, or with the file itself where ``Accept`` asks for it.

    Raises:
        InvalidInputError: ``Accept`` asks for the file of several pictures, or another format.
        EmbeddError: As `Painter.paint_all`.
    """
    form = accepted_format(request)
    if form is None:
        result = await paint_in_time(request, wanted)
        headers = painted_headers(result, ignored)
        return await json_with_pictures(lambda: make_reply(result), headers)
    if wanted.n != 1:
        raise InvalidInputError(
            f"n is {wanted.n}: an answer that is a picture itself (Accept: image/…) has only one",
            field="n",
        )
    result = await paint_in_time(request, replace(wanted, format=form))
    return picture_response(result, ignored)


async def default_image_model(request: web.Request) -> str | None:
    """The operator's default model, if it paints."""
    default = request.app[POLICY].default_model
    if default is None or parse_model_name(default).display not in await _list_names(request):
        return None
    return default


async def choose_image_model(request: web.Request) -> str:
    """The model of a request that names none: the default, or the only one that paints.

    Raises:
        InvalidInputError: None paints, or several do.
    """
    if default := await default_image_model(request):
        return default
    names = await _list_names(request)
    if len(names) != 1:
        found = f"{len(names)} image models are stored" if names else "no image model is stored"
        raise InvalidInputError(f"no model given, and {found}: name one", field="model")
    return names[0]


async def _list_names(request: web.Request) -> list[str]:
    entries = await asyncio.to_thread(request.app[LIBRARY].list)
    return [entry.name for entry in entries if "image" in entry.capabilities]
