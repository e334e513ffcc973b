"""OpenAI's Batch API: its routes, and what runs behind them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from aiohttp import web

from embedd import errors
from embedd.server.batches.runner import Runner
from embedd.server.batches.shelf import SHELF, Shelf
from embedd.server.dialects.base import BODIES, EMBEDDER, POLICY, Dialect, Route
from embedd.server.dialects.batches import files, jobs
from embedd.server.dialects.batches.answer import BatchAnswer
from embedd.server.dialects.endpoints import choose_named
from embedd.server.dialects.openai.errors import STATUSES, to_error

log = logging.getLogger(__name__)

PAGES: Final = ("after", "limit", "order")


def add_batches(app: web.Application, shelf: Shelf) -> None:
    """Let *app*, which has all else already, run the batches of *shelf* while it serves."""
    answer = BatchAnswer(
        app[EMBEDDER],
        policy=app[POLICY],
        bodies=app[BODIES],
        choose=partial(choose_named, app),
    )
    runner = Runner(shelf, answer)
    app[SHELF], app[jobs.RUNNER] = shelf, runner

    async def run_batches(_: web.Application) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                await asyncio.to_thread(stack.enter_context, shelf.open())
            except (errors.UnavailableError, OSError) as error:
                log.warning("files and batches cannot be used", extra={"reason": str(error)})
                yield
                return
            task = asyncio.create_task(runner.run())
            yield
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app.cleanup_ctx.append(run_batches)


DIALECT = Dialect(
    name="batches",
    routes=(
        Route(
            method="POST",
            path="/v1/files",
            endpoint=files.upload,
            body=bytes,
            upload=files.FORM,
            reply=files.FileReply,
        ),
        Route(
            method="GET",
            path="/v1/files",
            endpoint=files.list_files,
            reply=files.FileList,
            query=(*PAGES, "purpose"),
        ),
        # Before the path that it begins with: an id there may hold slashes.
        Route(
            method="GET",
            path="/v1/files/{id}/content",
            endpoint=files.content,
            reply=str,
            media=files.BYTES,
        ),
        Route(method="GET", path="/v1/files/{id}", endpoint=files.show_file, reply=files.FileReply),
        Route(
            method="DELETE",
            path="/v1/files/{id}",
            endpoint=files.delete_file,
            reply=files.DeletedFile,
        ),
        Route(
            method="POST",
            path="/v1/batches",
            endpoint=jobs.create_batch,
            body=jobs.BatchBody,
            reply=jobs.BatchReply,
        ),
        Route(
            method="GET",
            path="/v1/batches",
            endpoint=jobs.list_batches,
            reply=jobs.BatchList,
            query=PAGES,
        ),
        Route(
            method="POST",
            path="/v1/batches/{id}/cancel",
            endpoint=jobs.cancel_batch,
            reply=jobs.BatchReply,
        ),
        Route(
            method="GET", path="/v1/batches/{id}", endpoint=jobs.show_batch, reply=jobs.BatchReply
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
