"""``embedd bulk --format openai-batch``: a file of requests becomes a file of their answers."""

import asyncio
import itertools
import math
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import click
import msgspec

from embedd.bulk.answering import Answer, Answered, answer_in_order, answer_patiently
from embedd.bulk.finished import check_apart, check_replaceable, finished_path
from embedd.bulk.folder import RECORDS, Folder, naming
from embedd.bulk.progress import Progress
from embedd.bulk.requests import (
    NumberedLine,
    check_requests,
    find_endpoint,
    parse_requests,
    plan_requests,
    render_answer,
)
from embedd.bulk.sources import check_name, check_not_pipe, read_file_facts
from embedd.bulk.stores import is_remote
from embedd.bulk.streams import Cursor
from embedd.bulk.units import Range
from embedd.cli.bulk.display import open_display
from embedd.cli.bulk.running import CONTINUE, INTERRUPTED, WITH_ERRORS, listen_to_interrupts
from embedd.cli.bulk.servers import choose_addresses
from embedd.cli.connection import connect
from embedd.client import Client
from embedd.config import Settings
from embedd.errors import EmbeddError, InvalidInputError, UnavailableError, UnsupportedError
from embedd.names import is_same_model
from embedd.runtime import open_runtime
from embedd.server.dialects.base import Policy
from embedd.server.dialects.batches.answer import BatchAnswer
from embedd.server.http.bodies import BodyLimits

STREAM: Final = "-"
PARTS: Final = ".parts"  # ending of the folder of a job that is not complete
RESULTS: Final = "results.jsonl"
RECORD: Final = f"{RECORDS}/requests.json"
SHOWN_FAULTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsJob:
    """The command.

    Args:
        model: Computes all requests, whatever model they name.
        progress: ``auto``, ``json`` or ``none``.
        threads: Cores of a runtime of this process; None: those of its settings.
    """

    model: str
    inputs: Sequence[str]
    out: str
    restart: bool
    progress: str
    threads: int | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is, and of what.

    Args:
        position: Byte of the input before which all requests are answered.
        size: Bytes of the results that count.
    """

    model: str
    input: str
    input_size: int
    input_time: int
    position: int = 0
    size: int = 0
    answered: int = 0
    failed: int = 0


class _Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is done, and what identifies its output, as in `File`."""

    record: Record
    size: int
    digest: str


async def run_requests(
    job: RequestsJob, settings: Settings, *, servers: Sequence[str], local: bool
) -> int:
    """Answer all requests, and return the exit status of the command.

    Raises:
        EmbeddError: The input is not valid, or no server answers; what is committed stays.
    """
    source, target = _find_places(job)
    if (finished := _find_finished(job, source, target)) is not None:
        return _report(finished, "nothing left to do")
    folder = Folder(target.with_name(target.name + PARTS))
    with folder.lock():
        if job.restart:
            folder.remove(RECORD)
            finished_path(target).unlink(missing_ok=True)
        total = await asyncio.to_thread(_check, source, settings.max_body)
        record = _open_record(folder, job.model, source)
        async with _open_answer(
            settings, servers=servers, local=local, threads=job.threads
        ) as answer:
            work = _Work(job.model, source, folder, answer, record)
            if not await work.run(job.progress, total):
                click.echo(f"interrupted: {CONTINUE}", err=True)
                return INTERRUPTED
        facts = read_file_facts(str(folder.root / RESULTS))
        done = _Finished(record=work.record, size=facts.size, digest=facts.digest)
        Folder(target.parent).replace(finished_path(target).name, msgspec.json.encode(done))
        (folder.root / RESULTS).replace(target)
    folder.remove_folder("")
    return _report(work.record)


def _report(done: Record, *more: str) -> int:
    """Say what the output came to, and return the exit status."""
    said = (f"{done.answered:,} requests answered", f"{done.failed:,} of them failed", *more)
    click.echo(", ".join(said), err=True)
    return WITH_ERRORS if done.failed else 0


def _find_finished(job: RequestsJob, source: Path, target: Path) -> Record | None:
    """The record of the output, if this command has made it before; None if there is none.

    Raises:
        InvalidInputError: The output is not what this command makes.
    """
    check_replaceable(target)
    if job.restart or not target.exists():
        return None
    try:
        data = finished_path(target).read_bytes()
        finished = msgspec.json.decode(data, type=_Finished)
    except (FileNotFoundError, msgspec.MsgspecError):
        finished = None
    facts = read_file_facts(str(target))
    if finished is None or (facts.size, facts.digest) != (finished.size, finished.digest):
        raise InvalidInputError(f"{target} exists already: --restart computes it anew")
    _check_same(target, finished.record, _make_record(job.model, source))
    return finished.record


def _find_places(job: RequestsJob) -> tuple[Path, Path]:
    """Return the files of input and output; raise `InvalidInputError` if they cannot be used."""
    if len(job.inputs) != 1 or job.out == STREAM or job.inputs[0] == STREAM:
        raise InvalidInputError("requests are read from one file, and answered in one file")
    for name in (job.inputs[0], job.out):
        if is_remote(name):
            raise InvalidInputError(
                f"requests are read and answered on this machine, and {name} is of a store: copy it"
            )
    if not job.out.lower().endswith(".jsonl"):
        raise InvalidInputError(
            f"answers are lines of JSON: name a file that ends in .jsonl, not {job.out!r}"
        )
    source, target = Path(job.inputs[0]), Path(job.out)
    check_not_pipe(source)
    check_name(str(source))
    check_apart([str(source)], target, is_folder=False)
    return source, target


def _check(source: Path, max_body: int) -> int:
    """Return the number of requests; raise `InvalidInputError` if one is not valid."""
    try:
        endpoint = find_endpoint(source, max_body=max_body)
        checked = check_requests(source, endpoint, max_body=max_body)
    except OSError as error:
        raise InvalidInputError(f"cannot read {source}: {error.strerror}") from error
    if not checked.faults:
        return checked.requests
    shown = "; ".join(
        f"line {one.line}: {one.message}" if one.line else one.message
        for one in checked.faults[:SHOWN_FAULTS]
    )
    more = len(checked.faults) - SHOWN_FAULTS
    rest = f"; and {more} more" if more > 0 else ""
    raise InvalidInputError(f"{source} is not a file of requests: {shown}{rest}")


def _make_record(model: str, source: Path) -> Record:
    try:
        facts = source.stat()
    except OSError as error:
        raise InvalidInputError(f"cannot read {source}: {error.strerror}") from error
    return Record(
        model=model,
        input=str(source.resolve()),
        input_size=facts.st_size,
        input_time=facts.st_mtime_ns,
    )


def _open_record(folder: Folder, model: str, source: Path) -> Record:
    """Return the record of the job, if it is of the same model and input; else a new one."""
    new = _make_record(model, source)
    data = folder.read(RECORD)
    if data is None:
        return new
    old = msgspec.json.decode(data, type=Record)
    _check_same(folder.root, old, new)
    return old


def _check_same(place: Path, old: Record, new: Record) -> None:
    for name in ("model", "input", "input_size", "input_time"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now and not (name == "model" and is_same_model(before, now)):
            raise InvalidInputError(
                f"{place} was begun with another {name.replace('_', ' ')}, {before}, "
                f"not {now}: --restart begins anew"
            )


class _Work:
    """Answers ranges of requests, each committed by the record.

    Attributes:
        record: How far it is.
    """

    def __init__(
        self, model: str, source: Path, folder: Folder, answer: Answer, record: Record
    ) -> None:
        self.record = record
        self._model = msgspec.Raw(msgspec.json.encode(model))
        self._source = source
        self._cursor = Cursor(str(source))
        self._folder = folder
        self._answer = answer

    async def run(self, display: str, total: int) -> bool:
        """Answer what is left; return whether all is answered, and not interrupted."""
        start = self.record.position
        ranges = await asyncio.to_thread(lambda: list(plan_requests(self._source, start=start)))
        progress = Progress(
            rows=total - self.record.answered,
            size=sum(one.size for one in ranges),
            parts=len(ranges),
            done_rows=self.record.answered,
        )
        shown = open_display(display, progress)
        with closing(self._cursor), listen_to_interrupts() as stop, shown:
            try:
                for one in ranges:
                    if stop.is_set():
                        return False
                    await self._run_range(one, progress)
            except EmbeddError:
                click.echo(f"What is answered is kept: {CONTINUE}.", err=True)
                raise
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise
                return False
        return True

    async def _run_range(self, lines: Range, progress: Progress) -> None:
        requests = await asyncio.to_thread(self._read, lines)
        done = self.record
        with self._open_results() as file:

            async def write(line: tuple[str, Answered]) -> None:
                nonlocal done
                name, answered = line
                data = render_answer(name, answered.status, answered.request_id, answered.body)
                await asyncio.to_thread(file.write, data)
                failed = not answered.is_good
                done = msgspec.structs.replace(
                    done,
                    size=done.size + len(data),
                    answered=done.answered + 1,
                    failed=done.failed + failed,
                )
                progress.add(1, answered.tokens, 0, failed, lines.size / len(requests))

            await answer_in_order(requests, self._answer_line, write)
            await asyncio.to_thread(_flush, file)
        self.record = msgspec.structs.replace(done, position=lines.end)
        encoded = msgspec.json.encode(self.record)
        await asyncio.to_thread(self._folder.replace, RECORD, encoded)
        progress.finish_part()

    def _read(self, lines: Range) -> list[NumberedLine]:
        data = self._cursor.read(lines.start, lines.end - lines.start)
        return parse_requests(data, lines)

    async def _answer_line(self, line: NumberedLine) -> tuple[str, Answered]:
        body = msgspec.json.encode({**line.request.body, "model": self._model})
        answered = await answer_patiently(self._answer, line.request.url, body)
        return line.request.custom_id, answered

    @contextmanager
    def _open_results(self) -> Iterator[BinaryIO]:
        """Yield the results, without what was written after the record."""
        path = self._folder.root / RESULTS
        with naming(path), path.open("ab") as file:
            file.truncate(self.record.size)
            yield file


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class _ServerAnswer:
    """Sends requests to servers in turns."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = itertools.cycle(clients)

    async def compute(self, url: str, body: bytes) -> Answered:
        client = next(self._clients)
        status, request_id, reply = await client.post_as_it_is(url, body)
        try:
            usage = msgspec.json.decode(reply, type=_Counted).usage
        except msgspec.MsgspecError as error:
            raise UnsupportedError(f"the answer of {url} is not JSON: {error}") from error
        return Answered(status=status, request_id=request_id, body=reply, tokens=usage.total_tokens)

    def refuse(self, error: EmbeddError) -> NoReturn:
        # Not an answer of the server: what is left is computed by the next command.
        raise error


class _LocalAnswer(BatchAnswer):
    """Computes requests in this process."""

    def refuse(self, error: EmbeddError) -> Answered:
        """As that of a server, which does not answer for good while it has no room."""
        if isinstance(error, UnavailableError):
            raise error
        return super().refuse(error)


async def _choose_model(name: str | None, _: str) -> str:
    return name or ""  # each request has it


@asynccontextmanager
async def _open_answer(
    settings: Settings, *, servers: Sequence[str], local: bool, threads: int | None
) -> AsyncIterator[Answer]:
    """Yield the servers that are named, the one that answers, or a runtime of our own."""
    addresses = choose_addresses(settings, servers, local=local, threads=threads)
    async with AsyncExitStack() as stack:
        if addresses:
            clients = [await stack.enter_async_context(connect(one)) for one in addresses]
            yield _ServerAnswer(clients)
            return
        # The queue has only our own requests.
        opened = open_runtime(replace(settings, max_wait=math.inf))
        runtime = await stack.enter_async_context(opened)
        yield _LocalAnswer(
            runtime.embedder,
            policy=Policy(max_inputs=settings.max_inputs, token_ids=settings.token_ids),
            bodies=BodyLimits(
                max_body=settings.max_body, max_in_flight=settings.max_body_in_flight
            ),
            choose=_choose_model,
        )


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Counted(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)
