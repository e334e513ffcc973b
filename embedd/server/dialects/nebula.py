"""Nebula Block's API: images on its own path, which embeddings are sent to as well."""

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType, structs

from embedd.errors import EmbeddError, WrongMethodError
from embedd.images import PaintEvent, PaintProgress, PaintRequest, PaintResult
from embedd.server.access.auth import find_owner
from embedd.server.dialects.base import BODIES, Dialect, Failure, Route
from embedd.server.dialects.common.fields import parse_optional_keep_alive, require_model
from embedd.server.dialects.images.answers import (
    OTHER_MEDIA,
    answer_whole,
    default_image_model,
    ignored_header,
    to_base64,
)
from embedd.server.dialects.images.events import (
    SSE,
    Stream,
    answer_events,
    describe_progress,
    sse_comment,
)
from embedd.server.dialects.images.fields import (
    choose_one,
    parse_seed,
    read_body,
    refuse_editing,
    rename_fields,
    with_seed,
)
from embedd.server.dialects.openai.embed import EmbedBody, EmbedReply, embeddings
from embedd.server.dialects.openai.errors import STATUSES, Fault
from embedd.server.dialects.openai.errors import to_error as to_embedding_error
from embedd.server.dialects.openai.images import to_error as to_openai_error
from embedd.server.errors import choose_status
from embedd.server.http.bodies import ALREADY_READ, raw_fields
from embedd.server.http.json_out import dump
from embedd.server.http.request_id import request_id

PATHS: Final = ("/api/v1/images/generation", "/v1/images/generation")
SUCCESS: Final = "Image generated successfully"
DONE: Final = b"data: [DONE]\n\n"
# The painter's names of fields → Nebula's.
NAMES: Final = {"steps": "num_steps", "guidance": "guidance_scale"}


class GenerationBody(Struct):
    """Body of ``POST /api/v1/images/generation``; pictures in it are refused.

    *model_name* is the older name of *model*; *keep_alive* and *metadata* are embedd's.
    """

    model: str | None = None
    model_name: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    stream: bool | None = None
    image: Any = None
    mask: Any = None
    input_image: Any = None
    mask_image: Any = None
    keep_alive: Any = None
    metadata: bool | None = None


class Inference(Struct, frozen=True):
    """Seconds that painting took, without waiting."""

    inference: float


class Item(Struct, frozen=True, kw_only=True):
    """One picture; *seed* is the one that was used."""

    timings: Inference
    index: int
    b64_json: str
    seed: int


class GenerationReply(Struct, frozen=True, kw_only=True):
    """``POST /api/v1/images/generation``; *id* and *created* are sent at the end of a stream."""

    id: str | UnsetType = UNSET
    created: int | UnsetType = UNSET
    model: str
    object: str = "list"
    data: list[Item]
    message: str = SUCCESS
    status: str = "success"


class Delta(Struct, frozen=True, kw_only=True):
    """What is new; *role* is sent once."""

    content: str
    role: str | UnsetType = UNSET


class Choice(Struct, frozen=True, kw_only=True):
    """The only part of a progress event."""

    index: int = 0
    delta: Delta


class Chunk(Struct, frozen=True, kw_only=True):
    """A progress event: the attributes that the service's document lists, and two of ours."""

    id: str
    created: int
    model: str
    object: str = "image.generation.chunk"
    step: int
    num_steps: int
    choices: list[Choice]


class ErrorReply(Struct, frozen=True, kw_only=True):
    """OpenAI's envelope, and the keys by which this service's clients see a failure."""

    error: Fault
    detail: str
    message: str
    status: str = "failed"
    data: None = None


def to_error(failure: Failure) -> ErrorReply:
    """An error in the shapes of both services."""
    reply = to_openai_error(failure)
    return ErrorReply(error=reply.error, detail=reply.detail, message=reply.detail)


def to_request(body: GenerationBody, owner: str = "", default: str | None = None) -> PaintRequest:
    """The body as a `PaintRequest`.

    Raises:
        InvalidInputError: A field is missing, or contradicts another.
    """
    model = choose_one(model=body.model, model_name=body.model_name)
    refuse_editing(
        image=body.image,
        mask=body.mask,
        input_image=body.input_image,
        mask_image=body.mask_image,
    )
    return PaintRequest(
        model=require_model(model, default),
        prompt=body.prompt or "",
        negative=body.negative_prompt or "",
        width=body.width,
        height=body.height,
        steps=body.num_steps,
        guidance=body.guidance_scale,
        seed=parse_seed(body.seed),
        metadata=body.metadata,
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        owner=owner,
    )


def to_reply(model: str, result: PaintResult) -> GenerationReply:
    """The pictures, with the seconds that painting each took."""
    items = [
        Item(
            timings=Inference(round(picture.timings.sample + picture.timings.decode, 3)),
            index=picture.index,
            b64_json=to_base64(picture),
            seed=picture.seed,
        )
        for picture in result.pictures
    ]
    return GenerationReply(model=model, data=items)


async def generation(request: web.Request) -> web.StreamResponse:
    """``POST /api/v1/images/generation``."""
    body, ignored = await read_body(request, GenerationBody)
    is_named = (body.model or body.model_name or "").strip()
    default = None if is_named else await default_image_model(request)
    wanted = to_request(body, find_owner(request), default)
    with rename_fields(NAMES):
        if body.stream or SSE in request.headers.get("Accept", "").lower():
            return await _stream(request, with_seed(wanted), ignored)
        return await answer_whole(
            request, wanted, lambda result: to_reply(wanted.model, result), ignored
        )


async def generation_by_get(request: web.Request) -> web.StreamResponse:
    """``GET /api/v1/images/generation`` with a body, as the service's document has it."""
    async with request.app[BODIES].read(request) as data:
        if not data.strip():
            message = f"{request.path} does not take {request.method} without a body, use POST"
            raise WrongMethodError(message, allowed=("POST",))
        request[ALREADY_READ] = data
        is_embedding = await request.app[BODIES].inspect(
            data, lambda: _is_embedding(raw_fields(data))
        )
        endpoint = embeddings if is_embedding else generation
        return await endpoint(request)


def _is_embedding(fields: Mapping[str, bytes]) -> bool:
    """Whether a body is one of embeddings, which one of the service's documents sends here."""
    return "input" in fields and "prompt" not in fields


async def _stream(request: web.Request, wanted: PaintRequest, ignored: str) -> web.StreamResponse:
    id_, created = f"imggen-{uuid.uuid4().hex}", int(time.time())
    is_first = True

    def render(event: PaintEvent) -> Iterator[bytes]:
        nonlocal is_first
        if isinstance(event, PaintProgress):
            delta = Delta(content=describe_progress(event), role="assistant" if is_first else UNSET)
            is_first = False
            yield _event(
                Chunk(
                    id=id_,
                    created=created,
                    model=wanted.model,
                    step=event.step,
                    num_steps=event.steps,
                    choices=[Choice(delta=delta)],
                )
            )
        else:
            reply = to_reply(wanted.model, event)
            yield _event(structs.replace(reply, id=id_, created=created))

    def fail(error: EmbeddError) -> bytes:
        failure = Failure(
            error=error, status=choose_status(error, STATUSES), request_id=request_id(request)
        )
        return _event(to_error(failure))

    headers = {"X-Embedd-Seed": str(wanted.seed), **ignored_header(ignored)}
    stream = Stream(
        media=SSE, render=render, fail=fail, end=DONE, quiet=sse_comment, headers=headers
    )
    return await answer_events(request, wanted, stream)


def _event(value: Struct) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


# An embeddings body on the paths of images is answered with embeddings, and so are its errors.
EMBEDDINGS: Final = Dialect(
    name="nebula embeddings",
    routes=tuple(
        Route(
            method="POST",
            path=path,
            endpoint=embeddings,
            body=EmbedBody,
            reply=EmbedReply,
            accepts=_is_embedding,
        )
        for path in PATHS
    ),
    to_error=to_embedding_error,
    statuses=STATUSES,
)
DIALECT: Final = Dialect(
    name="nebula",
    routes=(
        *(
            Route(
                method="POST",
                path=path,
                endpoint=generation,
                body=GenerationBody,
                reply=GenerationReply,
                other_media=OTHER_MEDIA,
            )
            for path in PATHS
        ),
        *(
            Route(
                method="GET",
                path=path,
                endpoint=generation_by_get,
                reply=GenerationReply,
                other_media=OTHER_MEDIA,
            )
            for path in PATHS
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
