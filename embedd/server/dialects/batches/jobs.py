"""OpenAI's ``/v1/batches``: files of requests that are answered in their own time."""

from typing import Any, Final

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from embedd.bulk.requests import ENDPOINTS, LineFault
from embedd.errors import InvalidInputError
from embedd.server.batches.records import DAY, FINAL, Batch, Done, Purpose, Status
from embedd.server.batches.runner import Runner
from embedd.server.batches.shelf import make_id
from embedd.server.dialects.base import BODIES
from embedd.server.dialects.batches.files import make_refusal, open_shelf, parse_keep
from embedd.server.dialects.batches.paging import take_page
from embedd.server.http.bodies import decode_plainly
from embedd.server.http.json_out import json_response

RUNNER: Final = web.AppKey("runner", Runner)
WINDOW: Final = "24h"
MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512  # of metadata
BATCH_LIMIT, MOST_BATCHES = 20, 100  # of a page


class BatchBody(Struct):
    """Body of ``POST /v1/batches``."""

    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: dict[str, Any] | None = None
    output_expires_after: dict[str, Any] | None = None


class Faults(Struct, frozen=True, kw_only=True):
    """Why a batch failed."""

    object: str = "list"
    data: list[LineFault]


class RequestCounts(Struct, frozen=True, kw_only=True):
    """How many requests of a batch are in which state."""

    total: int
    completed: int
    failed: int


class Cached(Struct, frozen=True, kw_only=True):
    """Tokens of the input that were not computed."""

    cached_tokens: int = 0


class Reasoning(Struct, frozen=True, kw_only=True):
    """Tokens of the output that are not shown."""

    reasoning_tokens: int = 0


class BatchUsage(Struct, frozen=True, kw_only=True):
    """The tokens of a batch."""

    input_tokens: int
    input_tokens_details: Cached = Cached()
    output_tokens: int = 0
    output_tokens_details: Reasoning = Reasoning()
    total_tokens: int


class BatchReply(Struct, frozen=True, kw_only=True):
    """A batch, as OpenAI shows it."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: Faults | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    usage: BatchUsage


class BatchList(Struct, frozen=True, kw_only=True):
    """``GET /v1/batches``."""

    object: str = "list"
    data: list[BatchReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


def to_batch_reply(batch: Batch, done_now: Done | None = None) -> BatchReply:
    """Return *batch* as OpenAI shows it.

    Args:
        done_now: How far it is, if it is further than its record says.
    """
    done = done_now or batch.done
    ended = batch.ended
    is_final = batch.status in FINAL
    return BatchReply(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=Faults(data=list(batch.faults)) if batch.faults else None,
        input_file_id=batch.input,
        completion_window=batch.window,
        status=batch.status,
        output_file_id=batch.output if is_final else None,
        error_file_id=batch.errors if is_final else None,
        created_at=batch.created,
        in_progress_at=batch.began,
        expires_at=batch.expires,
        finalizing_at=batch.finalizing,
        completed_at=ended if batch.status is Status.COMPLETED else None,
        failed_at=ended if batch.status is Status.FAILED else None,
        expired_at=ended if batch.status is Status.EXPIRED else None,
        cancelling_at=batch.cancelling,
        cancelled_at=ended if batch.status is Status.CANCELLED else None,
        request_counts=RequestCounts(
            total=batch.total, completed=done.completed, failed=done.failed
        ),
        metadata=None if batch.metadata is None else dict(batch.metadata),
        usage=BatchUsage(input_tokens=done.tokens, total_tokens=done.tokens),
    )


async def create_batch(request: web.Request) -> web.StreamResponse:
    """``POST /v1/batches``."""
    shelf, owner = open_shelf(request)
    async with request.app[BODIES].read(request) as data:
        body = await request.app[BODIES].decode(data, lambda: decode_plainly(data, BatchBody))
    if body.endpoint not in ENDPOINTS:
        raise make_refusal("endpoint", " or ".join(ENDPOINTS), body.endpoint)
    if body.completion_window != WINDOW:
        raise make_refusal("completion_window", WINDOW, body.completion_window)
    if not body.input_file_id:
        raise make_refusal("input_file_id", "the id of a file that was uploaded", None)
    asked = body.output_expires_after or {}
    keep = parse_keep(
        asked.get("anchor"),
        asked.get("seconds"),
        anchored="created_at",
        name="output_expires_after",
    )
    metadata = _check_metadata(body.metadata)
    file = shelf.find_file(body.input_file_id, owner)
    if file.purpose is not Purpose.BATCH:
        raise InvalidInputError(
            f"{file.id} has the purpose {file.purpose}, the input of a batch {Purpose.BATCH}",
            field="input_file_id",
        )
    now = shelf.now
    batch = Batch(
        id=make_id("batch_"),
        owner=owner,
        endpoint=body.endpoint,
        input=file.id,
        window=WINDOW,
        metadata=metadata,
        status=Status.VALIDATING,
        created=now,
        expires=now + DAY,
        keep=keep,
    )
    await shelf.put_batch(batch)
    request.app[RUNNER].wake()
    return json_response(to_batch_reply(batch))


def _check_metadata(metadata: dict[str, Any] | None) -> dict[str, str] | None:
    for key, value in (metadata or {}).items():
        is_short = len(key) <= LONGEST_KEY and isinstance(value, str)
        if not is_short or len(value) > LONGEST_VALUE:
            raise InvalidInputError(
                f"metadata must have keys of at most {LONGEST_KEY} characters and texts of at "
                f"most {LONGEST_VALUE}",
                field="metadata",
            )
    if metadata is not None and len(metadata) > MOST_PAIRS:
        raise InvalidInputError(
            f"metadata has {len(metadata)} keys, the limit is {MOST_PAIRS}", field="metadata"
        )
    return metadata


async def list_batches(request: web.Request) -> web.StreamResponse:
    """``GET /v1/batches``."""
    shelf, owner = open_shelf(request)
    own = [one for one in shelf.batches.values() if one.owner == owner]
    page, more = take_page(request, own, limit=BATCH_LIMIT, most=MOST_BATCHES)
    return json_response(
        BatchList(
            data=[to_batch_reply(one, shelf.progress.get(one.id)) for one in page],
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=more,
        )
    )


async def show_batch(request: web.Request) -> web.StreamResponse:
    """``GET /v1/batches/{id}``."""
    shelf, owner = open_shelf(request)
    batch = shelf.find_batch(request.match_info["id"].rstrip("/"), owner)
    return json_response(to_batch_reply(batch, shelf.progress.get(batch.id)))


async def cancel_batch(request: web.Request) -> web.StreamResponse:
    """``POST /v1/batches/{id}/cancel``: what is computed is kept."""
    shelf, owner = open_shelf(request)
    batch = shelf.find_batch(request.match_info["id"], owner)
    if batch.status in FINAL or batch.status is Status.FINALIZING:
        raise InvalidInputError(f"{batch.id} cannot be cancelled: it is {batch.status}")
    if batch.cancelling is None:
        batch = await shelf.put_batch(
            replace(batch, status=Status.CANCELLING, cancelling=shelf.now)
        )
        request.app[RUNNER].wake()
    return json_response(to_batch_reply(batch, shelf.progress.get(batch.id)))
