"""OpenAI's ``/v1/files``: the input and the results of batches."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from msgspec import Struct

from embedd.errors import InvalidInputError, MalformedBodyError, UnknownRouteError
from embedd.server.access.auth import find_owner
from embedd.server.batches.records import Purpose, StoredFile
from embedd.server.batches.shelf import KEPT, SHELF, Shelf, Upload, make_file
from embedd.server.dialects.batches.paging import take_page
from embedd.server.http.decompress import read_file
from embedd.server.http.form_data import Field, FormParser
from embedd.server.http.json_out import json_response
from embedd.server.http.streams import in_thread
from embedd.server.http.threads import POOLS

CHUNK: Final = 1 << 20  # bytes that are written or read at once
FORM: Final = "multipart/form-data"
BYTES: Final = "application/octet-stream"
LONGEST_NAME: Final = 255  # characters
LONGEST_FIELDS: Final = 64 << 10  # bytes of all fields but the file
LEAST_KEPT, MOST_KEPT = 3600, 30 * 86_400  # seconds that OpenAI lets clients choose from


class FileReply(Struct, frozen=True, kw_only=True):
    """A file, as OpenAI shows it."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str = "processed"


class FileList(Struct, frozen=True, kw_only=True):
    """``GET /v1/files``."""

    object: str = "list"
    data: list[FileReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Struct, frozen=True, kw_only=True):
    """``DELETE /v1/files/{id}``."""

    id: str
    object: str = "file"
    deleted: bool = True


@dataclass(slots=True, kw_only=True)
class _Form:
    """The fields of an upload.

    Attributes:
        name: Of the file, as the client calls it.
    """

    upload: Upload | None = None
    name: str = ""
    fields: dict[str, bytearray] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return self.fields.get(name, default.encode()).decode("utf-8", "replace").strip()


def open_shelf(request: web.Request) -> tuple[Shelf, str]:
    """Return the files and batches, and who asks for them.

    Raises:
        UnavailableError: They cannot be used.
    """
    shelf = request.app[SHELF]
    shelf.check_open()
    return shelf, find_owner(request)


def to_file_reply(file: StoredFile) -> FileReply:
    """Return *file* as OpenAI shows it."""
    return FileReply(
        id=file.id,
        bytes=file.size,
        created_at=file.created,
        expires_at=file.expires,
        filename=file.name,
        purpose=file.purpose,
    )


def make_refusal(
    name: str, expected: str, value: object, *, field: str | None = None
) -> InvalidInputError:
    """Return the error of a field that is missing, or has a *value* that is not *expected*.

    Args:
        field: Where the error says it is; None: *name*.
    """
    text = "" if value is None else str(value)
    message = (
        f"{name} must be {expected}, got {text[:40]!r}"
        if text
        else f"{name} is missing: it must be {expected}"
    )
    return InvalidInputError(message, field=field or name)


def parse_keep(anchor: str | None, seconds: object, *, anchored: str, name: str) -> int:
    """Return for how long a file is kept: as long as is asked for, and at most `KEPT`.

    Raises:
        InvalidInputError: It is not an age that OpenAI takes.
    """
    if anchor is None and seconds is None:
        return KEPT
    if anchor != anchored:
        raise make_refusal(f"{name}.anchor", anchored, anchor, field=name)
    text = "" if seconds is None else str(seconds)
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not is_number or not LEAST_KEPT <= int(text) <= MOST_KEPT:
        raise make_refusal(f"{name}.seconds", f"{LEAST_KEPT} to {MOST_KEPT}", text, field=name)
    return min(int(text), KEPT)


async def upload(request: web.Request) -> web.StreamResponse:
    """``POST /v1/files``: written to the disk as it arrives."""
    shelf, owner = open_shelf(request)
    async with _receive(request, shelf, owner) as form:
        purpose = form.text("purpose")
        if purpose != Purpose.BATCH:
            raise make_refusal("purpose", Purpose.BATCH, purpose)
        keep = parse_keep(
            form.text("expires_after[anchor]") or None,
            form.text("expires_after[seconds]") or None,
            anchored="created_at",
            name="expires_after",
        )
        incoming = form.upload
        if incoming is None:
            raise make_refusal("file", "the file of requests, a field of the form", None)
        await in_thread(request.app[POOLS].uploads, incoming.seal)
        file = make_file(
            incoming.path.name,
            owner=owner,
            name=form.name,
            purpose=Purpose.BATCH,
            size=incoming.size,
            now=shelf.now,
            keep=keep,
        )
        form.upload = None  # kept
        await shelf.add_file(file)
    return json_response(to_file_reply(file))


@asynccontextmanager
async def _receive(request: web.Request, shelf: Shelf, owner: str) -> AsyncIterator[_Form]:
    """Yield the form that the body is; its file is deleted unless it is taken out.

    Raises:
        EmbeddError: The body is not a form, or its file is too large.
    """
    parser = FormParser(request.headers.get("Content-Type", ""))
    shelf.quota.check(owner, request.content_length or 0)
    form = _Form()
    threads = request.app[POOLS].uploads
    try:
        pieces = bytearray()
        current: Field | None = None
        async with aclosing(read_file(request)) as arriving:
            async for piece in arriving:
                for event in parser.feed(piece):
                    if isinstance(event, Field):
                        current = event
                        _begin(form, event, shelf, owner)
                    elif current is not None and current.name == "file":
                        if form.upload is not None:
                            form.upload.reserve(len(event))
                        pieces += event
                    elif current is not None:
                        _add(form, current.name, event)
                if len(pieces) >= CHUNK and form.upload is not None:
                    await in_thread(threads, form.upload.write, bytes(pieces))
                    pieces.clear()
        parser.finish()
        if form.upload is not None:
            await in_thread(threads, form.upload.write, bytes(pieces))
        yield form
    finally:
        if form.upload is not None:
            await in_thread(threads, form.upload.drop)


def _begin(form: _Form, begun: Field, shelf: Shelf, owner: str) -> None:
    if begun.name != "file":
        form.fields[begun.name] = bytearray()
        return
    if form.upload is not None:
        raise MalformedBodyError("the form has two fields named file")
    form.upload = shelf.begin_upload(owner)
    form.name = (begun.filename or "")[:LONGEST_NAME].encode("utf-8", "replace").decode()


def _add(form: _Form, name: str, content: bytes) -> None:
    form.fields[name] += content
    if sum(len(key) + len(one) for key, one in form.fields.items()) > LONGEST_FIELDS:
        raise MalformedBodyError(f"the fields of the form have more than {LONGEST_FIELDS} bytes")


async def list_files(request: web.Request) -> web.StreamResponse:
    """``GET /v1/files``."""
    shelf, owner = open_shelf(request)
    purpose = request.query.get("purpose")
    own = [one for one in shelf.files.values() if one.owner == owner]
    files = [one for one in own if purpose in (None, one.purpose)]
    page, more = take_page(request, files, limit=10_000, most=10_000)
    return json_response(
        FileList(
            data=[to_file_reply(one) for one in page],
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=more,
        )
    )


def _find(request: web.Request) -> tuple[Shelf, StoredFile]:
    shelf, owner = open_shelf(request)
    return shelf, shelf.find_file(request.match_info["id"].rstrip("/"), owner)


async def show_file(request: web.Request) -> web.StreamResponse:
    """``GET /v1/files/{id}``."""
    _, file = _find(request)
    return json_response(to_file_reply(file))


async def delete_file(request: web.Request) -> web.StreamResponse:
    """``DELETE /v1/files/{id}``."""
    shelf, file = _find(request)
    await shelf.delete_file(file)
    return json_response(DeletedFile(id=file.id))


async def content(request: web.Request) -> web.StreamResponse:
    """``GET /v1/files/{id}/content``: to be saved, whatever it holds."""
    shelf, file = _find(request)
    threads = request.app[POOLS].uploads
    response = web.StreamResponse(
        headers={
            "Content-Type": BYTES,
            "Content-Disposition": f'attachment; filename="{file.id}.jsonl"',
            "X-Content-Type-Options": "nosniff",
        }
    )
    response.content_length = file.size
    with contextlib.ExitStack() as stack:
        try:
            source = await in_thread(threads, shelf.open_content, file.id)
        except FileNotFoundError:
            raise UnknownRouteError(f"no such file: {file.id}") from None
        stack.callback(source.close)
        await response.prepare(request)
        if request.method != "HEAD":
            while piece := await in_thread(threads, source.read, CHUNK):
                await response.write(piece)
            await response.write_eof()
    return response
