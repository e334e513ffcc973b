"""OpenAI's ``/v1/images/generations``, with the fields by which other services paint."""

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType, field, structs

from embedd.errors import EmbeddError, InvalidInputError, UnsupportedValueError
from embedd.images import PaintEvent, PaintRequest, PaintResult
from embedd.server.access.auth import find_owner
from embedd.server.dialects.base import Dialect, Failure, Route
from embedd.server.dialects.common.fields import choose_word, parse_optional_keep_alive
from embedd.server.dialects.images.answers import (
    OTHER_MEDIA,
    answer_whole,
    choose_image_model,
    ignored_header,
    to_base64,
    to_data_url,
)
from embedd.server.dialects.images.events import SSE, Stream, answer_events, sse_comment
from embedd.server.dialects.images.fields import (
    choose_one,
    parse_format,
    parse_seed,
    parse_size,
    read_body,
    refuse_editing,
    rename_fields,
    with_seed,
)
from embedd.server.dialects.openai import errors as openai
from embedd.server.dialects.openai.errors import STATUSES, ErrorReply
from embedd.server.errors import choose_status
from embedd.server.http.json_out import dump
from embedd.server.http.request_id import request_id

# The painter's names of fields → this API's.
NAMES: Final = {
    "width": "size",
    "height": "size",
    "guidance": "guidance_scale",
    "quality": "output_compression",
    "previews": "partial_images",
}


class ImageBody(Struct):
    """Body of ``POST /v1/images/generations``.

    *quality*, *style*, *moderation* and *user* have no effect; *seed* and what follows it are
    not OpenAI's.
    """

    prompt: str | None = None
    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    response_format: str | None = None
    stream: bool | None = None
    partial_images: int | None = None
    user: str | None = None
    image: Any = None
    mask: Any = None
    seed: int | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    num_steps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    cfg_scale: float | None = None
    keep_alive: Any = None
    metadata: bool | None = None


class Item(Struct, frozen=True, kw_only=True):
    """A picture, as base64 or as a URL that contains it."""

    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET


class TokenDetails(Struct, frozen=True, kw_only=True):
    """Tokens by kind: none are counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of a request: none are counted."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = field(default_factory=TokenDetails)
    output_tokens: int = 0
    total_tokens: int = 0


class ImageReply(Struct, frozen=True, kw_only=True):
    """``POST /v1/images/generations``."""

    created: int
    data: list[Item]
    output_format: str
    size: str
    usage: Usage = field(default_factory=Usage)


class ImageEvent(Struct, frozen=True, kw_only=True):
    """An event of a stream: a picture while it is painted, or when it is complete."""

    type: str
    b64_json: str
    partial_image_index: int | UnsetType = UNSET
    created_at: int
    size: str
    quality: str = "auto"
    background: str = "opaque"
    output_format: str
    usage: Usage | UnsetType = UNSET


def to_error(failure: Failure) -> ErrorReply:
    """OpenAI's envelope; a wrong value has the code by which this route's clients know it."""
    reply = openai.to_error(failure)
    is_value = isinstance(failure.error, InvalidInputError) and failure.error.field is not None
    if not is_value or reply.error.code is not None:
        return reply
    return structs.replace(reply, error=structs.replace(reply.error, code="invalid_value"))


def to_request(body: ImageBody, owner: str = "") -> PaintRequest:
    """The body as a `PaintRequest`; its model is empty if the client named none.

    Raises:
        InvalidInputError: A field is wrong, or contradicts another.
    """
    refuse_editing(image=body.image, mask=body.mask)
    if (body.background or "").lower() == "transparent":
        raise UnsupportedValueError("transparent backgrounds are not supported", field="background")
    if body.response_format is not None:
        choose_word("response_format", body.response_format, ("b64_json", "url"))
    width, height = parse_size(body.size)
    return PaintRequest(
        model=body.model or "",
        prompt=body.prompt or "",
        negative=body.negative_prompt or "",
        width=width,
        height=height,
        steps=choose_one(
            steps=body.steps,
            num_steps=body.num_steps,
            num_inference_steps=body.num_inference_steps,
        ),
        guidance=choose_one(guidance_scale=body.guidance_scale, cfg_scale=body.cfg_scale),
        seed=parse_seed(body.seed),
        n=1 if body.n is None else body.n,
        format=parse_format(body.output_format),
        quality=body.output_compression,
        metadata=body.metadata,
        previews=(body.partial_images or 0) if body.stream else 0,
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        owner=owner,
    )


def to_reply(result: PaintResult, *, as_urls: bool = False) -> ImageReply:
    """The pictures in order."""
    form = result.format
    items = [
        Item(url=to_data_url(picture, form)) if as_urls else Item(b64_json=to_base64(picture))
        for picture in result.pictures
    ]
    return ImageReply(
        created=int(time.time()), data=items, output_format=form.value, size=_size(result)
    )


async def generations(request: web.Request) -> web.StreamResponse:
    """``POST /v1/images/generations``."""
    body, ignored = await read_body(request, ImageBody)
    with rename_fields(NAMES):
        wanted = to_request(body, find_owner(request))
        if not wanted.model.strip():
            wanted = replace(wanted, model=await choose_image_model(request))
        if body.stream:
            return await _stream(request, with_seed(wanted), ignored)
        as_urls = (body.response_format or "").lower() == "url"
        return await answer_whole(
            request, wanted, lambda result: to_reply(result, as_urls=as_urls), ignored
        )


async def _stream(request: web.Request, wanted: PaintRequest, ignored: str) -> web.StreamResponse:
    created = int(time.time())
    form = wanted.format

    def render(event: PaintEvent) -> Iterator[bytes]:
        if isinstance(event, PaintResult):
            for picture in event.pictures:
                yield _event(
                    ImageEvent(
                        type="image_generation.completed",
                        b64_json=to_base64(picture),
                        created_at=int(time.time()),
                        size=f"{picture.width}x{picture.height}",
                        output_format=form.value,
                        usage=Usage(),
                    )
                )
        elif event.preview is not None:
            yield _event(
                ImageEvent(
                    type="image_generation.partial_image",
                    b64_json=base64.b64encode(event.preview.data).decode(),
                    partial_image_index=event.preview.number,
                    created_at=created,
                    size=_wanted_size(wanted),
                    output_format=form.value,
                )
            )

    def fail(error: EmbeddError) -> bytes:
        status = choose_status(error, STATUSES)
        failure = Failure(error=error, status=status, request_id=request_id(request))
        return b"event: error\ndata: " + dump(to_error(failure)) + b"\n\n"

    headers = {"X-Embedd-Seed": str(wanted.seed), **ignored_header(ignored)}
    stream = Stream(media=SSE, render=render, fail=fail, quiet=sse_comment, headers=headers)
    return await answer_events(request, wanted, stream)


def _event(event: ImageEvent) -> bytes:
    return f"event: {event.type}\n".encode() + b"data: " + dump(event) + b"\n\n"


def _wanted_size(wanted: PaintRequest) -> str:
    """The size that was asked for; a picture of the model's own size is not known before."""
    if wanted.width is None or wanted.height is None:
        return "auto"
    return f"{wanted.width}x{wanted.height}"


def _size(result: PaintResult) -> str:
    return f"{result.pictures[0].width}x{result.pictures[0].height}"


DIALECT: Final = Dialect(
    name="openai images",
    routes=(
        Route(
            method="POST",
            path="/v1/images/generations",
            endpoint=generations,
            body=ImageBody,
            reply=ImageReply,
            other_media=OTHER_MEDIA,
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
