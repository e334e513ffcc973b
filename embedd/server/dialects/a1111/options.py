"""A1111's ``/sdapi/v1/options`` and lists: the model that it paints with by default."""

import asyncio

from aiohttp import web
from msgspec import Struct

from embedd.errors import InvalidInputError
from embedd.names import parse_model_name
from embedd.ollama_api import StoredModel
from embedd.server.dialects.base import LIBRARY, PAINTER
from embedd.server.dialects.images.answers import choose_image_model
from embedd.server.dialects.images.fields import read_body
from embedd.server.http.json_out import json_response


class Checkpoint:
    """The model that requests without a name are painted with; None is the only one."""

    def __init__(self) -> None:
        self.name: str | None = None


CHECKPOINT = web.AppKey("a1111 checkpoint", Checkpoint)


class OptionsBody(Struct):
    """Body of ``POST /sdapi/v1/options``; other settings have no effect."""

    sd_model_checkpoint: str | None = None


class OptionsReply(Struct, frozen=True, kw_only=True):
    """``GET /sdapi/v1/options``: the model, empty if several could be meant."""

    sd_model_checkpoint: str
    samples_format: str = "png"


class Model(Struct, frozen=True, kw_only=True):
    """A row of ``/sdapi/v1/sd-models``."""

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str
    config: None = None


class Named(Struct, frozen=True, kw_only=True):
    """A row of ``/sdapi/v1/samplers``; the model's own is always used."""

    name: str
    aliases: list[str] = []
    options: dict[str, str] = {}


class Scheduler(Struct, frozen=True, kw_only=True):
    """A row of ``/sdapi/v1/schedulers``."""

    name: str
    label: str


class Done(Struct, frozen=True, kw_only=True):
    """``POST /sdapi/v1/options``: an empty object."""


async def choose_checkpoint(request: web.Request, name: str | None) -> str:
    """The model *name*, else the default one, else the only one that paints.

    Raises:
        InvalidInputError: There is none, or there are several.
    """
    return name or request.app[CHECKPOINT].name or await choose_image_model(request)


async def options(request: web.Request) -> web.StreamResponse:
    """``GET /sdapi/v1/options``."""
    try:
        name = await choose_checkpoint(request, None)
    except InvalidInputError:
        name = ""
    return json_response(OptionsReply(sd_model_checkpoint=name))


async def set_options(request: web.Request) -> web.StreamResponse:
    """``POST /sdapi/v1/options``: sets the model that this API paints with by default."""
    body, _ = await read_body(request, OptionsBody)
    if body.sd_model_checkpoint:
        model = await request.app[PAINTER].find(body.sd_model_checkpoint)
        request.app[CHECKPOINT].name = model.spec.name
    return json_response(Done())


async def sd_models(request: web.Request) -> web.StreamResponse:
    """``GET /sdapi/v1/sd-models``: the image models in the store."""
    entries = await asyncio.to_thread(request.app[LIBRARY].list)
    return json_response([_to_model(one) for one in entries if "image" in one.capabilities])


async def samplers(_: web.Request) -> web.StreamResponse:
    """``GET /sdapi/v1/samplers``: the model's own."""
    return json_response([Named(name="automatic")])


async def schedulers(_: web.Request) -> web.StreamResponse:
    """``GET /sdapi/v1/schedulers``: the model's own."""
    return json_response([Scheduler(name="automatic", label="Automatic")])


def _to_model(entry: StoredModel) -> Model:
    name = parse_model_name(entry.name).display
    return Model(
        title=name,
        model_name=name,
        hash=entry.digest[:10],
        sha256=entry.digest,
        filename=name,
    )
