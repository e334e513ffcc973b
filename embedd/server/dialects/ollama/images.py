"""Ollama's ``/api/generate`` with an image model: lines of progress, the picture in the last one.

As in Ollama 0.14.3 to its removal of image models in July 2026, whose clients still send it.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET

from embedd.errors import InvalidInputError, ModelNotFoundError, NotAnImageModelError
from embedd.images import PaintEvent, PaintProgress, PaintRequest, PaintResult, Phase
from embedd.ollama_api import GenerateBody, GenerateReply
from embedd.scheduler.records import AnySpec
from embedd.server.access.auth import find_owner
from embedd.server.dialects.base import EMBEDDER, NDJSON, PAINTER
from embedd.server.dialects.common.fields import parse_optional_keep_alive
from embedd.server.dialects.images.answers import (
    ignored_header,
    json_with_pictures,
    paint_in_time,
    painted_headers,
    to_base64,
)
from embedd.server.dialects.images.events import Stream, answer_events
from embedd.server.dialects.images.fields import (
    find_ignored,
    parse_format,
    parse_seed,
    refuse_editing,
    with_seed,
)
from embedd.server.dialects.ollama.errors import to_error_line
from embedd.server.http.json_out import dump

NANOSECONDS: Final = 1e9
# Fields of requests to language models, which clients send to every model.
USUAL: Final = frozenset({"suffix", "system", "template", "context", "raw", "format", "think"})


async def is_image_model(app: web.Application, name: str) -> bool:
    """Whether the model *name* is stored and paints."""
    try:
        await app[PAINTER].find(name)
    except (NotAnImageModelError, ModelNotFoundError):
        return False
    return True


async def unload(app: web.Application, name: str) -> None:
    """Unload the model *name*, whatever it does.

    Raises:
        ModelNotFoundError: It is not in the store.
    """
    try:
        await app[PAINTER].unload(name)
    except NotAnImageModelError:
        await app[EMBEDDER].unload(name)


async def find_specs(app: web.Application, name: str) -> Sequence[AnySpec]:
    """What may be in memory of the model *name*, whatever it does.

    Raises:
        ModelNotFoundError: It is not in the store.
    """
    try:
        return await app[PAINTER].find_specs(name)
    except NotAnImageModelError:
        return [await app[EMBEDDER].find_spec(name)]


def to_request(body: GenerateBody, owner: str = "") -> PaintRequest:
    """The body as a `PaintRequest`.

    Raises:
        InvalidInputError: A field is wrong.
    """
    refuse_editing(images=body.images)
    return PaintRequest(
        model=body.model or "",
        prompt=body.prompt or "",
        negative=body.negative_prompt or "",
        width=body.width or None,
        height=body.height or None,
        steps=body.steps or None,
        guidance=body.guidance,
        seed=parse_seed(_integer_option(body.options or {}, "seed")),
        format=parse_format(body.output_format),
        keep_alive=parse_optional_keep_alive(body.keep_alive),
        owner=owner,
    )


def _integer_option(options: dict[str, Any], name: str) -> int | None:
    value = options.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidInputError(f'option "{name}" must be of type integer')


def to_line(model: str, event: PaintProgress) -> GenerateReply:
    """A line of progress: steps so far and in all."""
    completed = event.step if event.phase in (Phase.SAMPLING, Phase.DECODING) else 0
    return GenerateReply(
        model=model,
        created_at=datetime.now(UTC),
        done=False,
        done_reason=UNSET,
        completed=completed or UNSET,  # as Ollama, which leaves 0 out
        total=event.steps,
    )


def to_last_line(model: str, result: PaintResult) -> GenerateReply:
    """The last line, which is the whole answer without a stream."""
    timings = result.timings
    return GenerateReply(
        model=model,
        created_at=datetime.now(UTC),
        image=to_base64(result.pictures[0]),
        done_reason="stop",
        total_duration=max(1, int(timings.total * NANOSECONDS)),
        load_duration=int(timings.load * NANOSECONDS),
    )


async def paint(
    request: web.Request, body: GenerateBody, fields: Iterable[str]
) -> web.StreamResponse:
    """Paint the picture that *body* asks for, whose fields are *fields*.

    Raises:
        EmbeddError: A field is wrong; or as `Painter.paint`.
    """
    ignored = find_ignored((name for name in fields if name not in USUAL), GenerateBody)
    wanted = with_seed(to_request(body, find_owner(request)))
    if body.stream is False:
        result = await paint_in_time(request, wanted)
        headers = painted_headers(result, ignored)
        return await json_with_pictures(lambda: to_last_line(wanted.model, result), headers)

    def render(event: PaintEvent) -> Iterator[bytes]:
        if isinstance(event, PaintProgress):
            yield dump(to_line(wanted.model, event)) + b"\n"
        else:
            yield dump(to_last_line(wanted.model, event)) + b"\n"

    stream = Stream(
        media=NDJSON,
        render=render,
        fail=lambda error: to_error_line(error) + b"\n",
        headers={"X-Embedd-Seed": str(wanted.seed), **ignored_header(ignored)},
    )
    return await answer_events(request, wanted, stream)
