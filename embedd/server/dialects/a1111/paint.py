"""A1111's ``/sdapi/v1/txt2img``, its progress, and how it is interrupted."""

import time
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from embedd.errors import InvalidInputError
from embedd.images import PaintRequest, PaintResult, Phase
from embedd.painter.painter import PaintStatus
from embedd.server.access.auth import find_owner
from embedd.server.dialects.a1111.options import choose_checkpoint
from embedd.server.dialects.base import PAINTER
from embedd.server.dialects.images.answers import (
    json_with_pictures,
    paint_in_time,
    painted_headers,
    to_base64,
)
from embedd.server.dialects.images.fields import (
    parse_seed,
    read_body,
    refuse_editing,
    rename_fields,
)
from embedd.server.http.json_out import json_response

# The painter's names of fields → A1111's.
NAMES: Final = {"guidance": "cfg_scale", "n": "batch_size"}


class Overrides(Struct):
    """Settings of one request; the model alone has an effect."""

    sd_model_checkpoint: str | None = None


class PaintBody(Struct):
    """Body of ``POST /sdapi/v1/txt2img``; *sampler_name* has no effect.

    What is absent is the model's own, not A1111's 512x512, 20 steps and 7.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    seed: int | None = None
    batch_size: int | None = None
    n_iter: int | None = None
    sampler_name: str | None = None
    override_settings: Overrides | None = None
    init_images: Any = None


class PaintReply(Struct, frozen=True, kw_only=True):
    """``POST /sdapi/v1/txt2img``: *info* is JSON as text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class Info(Struct, frozen=True, kw_only=True):
    """The content of *info*: what was painted, with the seeds that were used."""

    prompt: str
    negative_prompt: str
    seed: int
    all_seeds: list[int]
    width: int
    height: int
    steps: int
    cfg_scale: float
    sampler_name: str
    sd_model_name: str
    infotexts: list[str]


class State(Struct, frozen=True, kw_only=True):
    """What is painted now."""

    skipped: bool = False
    interrupted: bool = False
    job: str = ""
    job_count: int = 0
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressReply(Struct, frozen=True, kw_only=True):
    """``GET /sdapi/v1/progress``: the share that is done, and the seconds that are left."""

    progress: float = 0.0
    eta_relative: float = 0.0
    state: State
    current_image: str | None = None
    textinfo: str | None = None


class InterruptBody(Struct):
    """Body of ``POST /sdapi/v1/interrupt``: nothing in it has an effect."""


class InterruptReply(Struct, frozen=True, kw_only=True):
    """``POST /sdapi/v1/interrupt``: an empty object."""


def to_request(body: PaintBody, model: str, owner: str = "") -> PaintRequest:
    """The body as a `PaintRequest`; as many pictures as both counts give together.

    Raises:
        InvalidInputError: A field is wrong.
    """
    refuse_editing(init_images=body.init_images)
    counts = {"batch_size": body.batch_size, "n_iter": body.n_iter}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InvalidInputError(f"{name} is {count}, it must be at least 1", field=name)
    return PaintRequest(
        model=model,
        prompt=body.prompt or "",
        negative=body.negative_prompt or "",
        width=body.width,
        height=body.height,
        steps=body.steps,
        guidance=body.cfg_scale,
        seed=parse_seed(body.seed),
        n=(body.batch_size or 1) * (body.n_iter or 1),
        owner=owner,
    )


def to_reply(body: PaintBody, wanted: PaintRequest, result: PaintResult) -> PaintReply:
    """The pictures, the request, and what it was painted with."""
    pictures = result.pictures
    info = Info(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative,
        seed=pictures[0].seed,
        all_seeds=[picture.seed for picture in pictures],
        width=pictures[0].width,
        height=pictures[0].height,
        steps=result.steps,
        cfg_scale=result.guidance,
        sampler_name=result.sampler,
        sd_model_name=wanted.model,
        infotexts=[_describe(wanted, result, picture.seed) for picture in pictures],
    )
    return PaintReply(
        images=[to_base64(picture) for picture in pictures],
        parameters=msgspec.to_builtins(body),
        info=msgspec.json.encode(info).decode(),
    )


def _describe(wanted: PaintRequest, result: PaintResult, seed: int) -> str:
    picture = result.pictures[0]
    lines = [wanted.prompt, f"Negative prompt: {wanted.negative}" if wanted.negative else ""]
    lines.append(
        f"Steps: {result.steps}, Sampler: {result.sampler}, CFG scale: {result.guidance}, "
        f"Seed: {seed}, Size: {picture.width}x{picture.height}, Model: {wanted.model}"
    )
    return "\n".join(filter(None, lines))


async def txt2img(request: web.Request) -> web.StreamResponse:
    """``POST /sdapi/v1/txt2img``."""
    body, ignored = await read_body(request, PaintBody)
    overridden = body.override_settings.sd_model_checkpoint if body.override_settings else None
    model = await choose_checkpoint(request, overridden)
    with rename_fields(NAMES):
        wanted = to_request(body, model, find_owner(request))
        result = await paint_in_time(request, wanted)
    headers = painted_headers(result, ignored)
    return await json_with_pictures(lambda: to_reply(body, wanted, result), headers)


async def progress(request: web.Request) -> web.StreamResponse:
    """``GET /sdapi/v1/progress``: of the first picture of the same key."""
    owner = find_owner(request)
    running = [one for one in request.app[PAINTER].statuses() if one.request.owner == owner]
    if not running:
        return json_response(ProgressReply(state=State()))
    return json_response(_to_progress(running[0], len(running), time.perf_counter()))


def _to_progress(status: PaintStatus, jobs: int, now: float) -> ProgressReply:
    event = status.progress
    step, steps = (event.step, event.steps) if event else (0, 0)
    is_sampling = event is not None and event.phase is Phase.SAMPLING
    index = event.index if event else 0
    share = (index + (step / steps if steps else 0.0)) / status.request.n
    left = (now - status.started) * (1 - share) / share if share else 0.0
    return ProgressReply(
        progress=round(share, 4),
        eta_relative=round(left, 1),
        state=State(
            job="txt2img",
            job_count=jobs,
            job_no=index,
            sampling_step=step,
            sampling_steps=steps,
        ),
        textinfo=None if event is None or is_sampling else event.phase.value,
    )


async def interrupt(request: web.Request) -> web.StreamResponse:
    """``POST /sdapi/v1/interrupt``: cancels the pictures of the same key."""
    request.app[PAINTER].cancel(find_owner(request))
    return json_response(InterruptReply())
