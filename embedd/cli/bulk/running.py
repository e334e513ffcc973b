"""A bulk job from its options to its exit status."""

import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import click

from embedd.bulk.commit import (
    JOB,
    SUCCESS,
    Counts,
    FolderSink,
    Sink,
    StreamSink,
    complete_parts,
    read_backend,
)
from embedd.bulk.compute import Pool
from embedd.bulk.ending import count_parts, finish_job, ids_path
from embedd.bulk.estimate import estimate
from embedd.bulk.finished import (
    Finished,
    check_apart,
    check_outside,
    check_same,
    read_finished,
)
from embedd.bulk.folder import FolderLockedError, JobFolder
from embedd.bulk.job import Job, Model, Options, check_columns, choose_selection, fit_limits, plan
from embedd.bulk.opening import (
    begin_stream,
    choose_units,
    clear,
    folder_of,
    is_of_shard,
    open_job,
)
from embedd.bulk.parts import Output, is_typed
from embedd.bulk.progress import Progress
from embedd.bulk.remote import Target, make_target
from embedd.bulk.runner import ErrorBudget, ErrorBudgetError, UnitsWithRows, read_units, run_units
from embedd.bulk.sources import STDIN, Format, find_paths, make_sources
from embedd.bulk.stdin import Interruptible, StreamUnits
from embedd.bulk.summary import (
    describe_errors,
    describe_left_out,
    describe_reading,
    measure_output,
)
from embedd.bulk.units import Limits, Unit
from embedd.cli.bulk.display import (
    describe_computer,
    describe_estimate,
    describe_totals,
    open_display,
)
from embedd.cli.bulk.servers import choose_addresses
from embedd.cli.connection import connect
from embedd.computers import Computers, open_computers
from embedd.config import Settings
from embedd.errors import EmbeddError, InvalidInputError

WITH_ERRORS: Final = 3
INTERRUPTED: Final = 130
CONTINUE: Final = "run the same command to continue"

# Runs units until they are done, or the event is set and those in work are done.
Run: TypeAlias = Callable[[asyncio.Event], Awaitable[Counts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The command.

    Args:
        form: Format of inputs whose ending names none.
        shard: Which share of how many this process does.
        mixed: Whether vectors may be of several backends.
        most_errors: Rows that may fail; None: any number.
        progress: ``auto``, ``json`` or ``none``.
        threads: Cores of a runtime of this process; None: those of its settings.
    """

    inputs: Sequence[str]
    out: str
    options: Options
    form: str | None
    shard: tuple[int, int]
    restart: bool
    mixed: bool
    servers: Sequence[str]
    local: bool
    most_errors: int | None
    progress: str
    dry_run: bool
    threads: int | None = None

    @property
    def target(self) -> Target:
        """The output as a path."""
        return make_target(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done.

    Args:
        read: The units that are left, with their rows.
        units: The same; None where they become known only while stdin is read.
        before: What the parts of this shard that are complete came to.
    """

    job: Job
    read: UnitsWithRows
    units: Sequence[Unit] | None
    progress: Progress
    budget: ErrorBudget
    before: Counts = field(default_factory=Counts)


async def run(request: Request, settings: Settings) -> int:
    """Do what the command says, and return its exit status.

    Raises:
        EmbeddError: An input, an option or what computes is at fault; finished parts stay.
    """
    _check(request)
    output = request.options.output
    async with open_computers(
        settings,
        request.options.wanted,
        choose_addresses(settings, request.servers, local=request.local, threads=request.threads),
        connect=connect,
        mixed=request.mixed,
    ) as computers:
        places = ", ".join(computers.places)
        say(describe_computer(request.options.wanted.model, computers.served_by, places))
        with _open_stdin() as stdin:
            if output is Output.STDOUT or request.dry_run:
                pool = _make_pool(request, computers, computers.served_by)
                work = await asyncio.to_thread(_open_work, request, computers.model, None, stdin)
                stream = StreamSink(sys.stdout.buffer, sys.stderr.buffer)
                if request.dry_run:
                    click.echo(describe_estimate(await estimate(work.job, work.units or (), pool)))
                    return 0
                done = await _do(request, work, _make_run(work, pool, stream, stdin))
                return INTERRUPTED if done is None else _report_stream(work, done)
            index, of = request.shard
            folder = folder_of(request.target, output, f"{index}-of-{of}", notify=say)
            async with hold_lock(folder):

                def make_run(work: Work) -> Run:
                    backend = read_backend(folder) or computers.served_by
                    pool = _make_pool(request, computers, backend)
                    sink = FolderSink(folder, output, mixed=request.mixed)
                    return _make_run(work, pool, sink, stdin)

                return await complete(request, computers.model, folder, make_run, stdin)


def _make_pool(request: Request, computers: Computers, served_by: str) -> Pool:
    return Pool(computers.computes, served_by=served_by, mixed=request.mixed, notify=say)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdin:
    """What is piped into the command.

    Args:
        interrupt: Ends a read that waits for data.
    """

    stream: BinaryIO
    interrupt: Callable[[], object]


@contextmanager
def _open_stdin() -> Iterator[Stdin]:
    """Yield stdin; what still waits for data at the end of the block is interrupted."""
    try:
        raw = Interruptible(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):  # it has no descriptor, or is closed
        yield Stdin(stream=getattr(sys.stdin, "buffer", io.BytesIO()), interrupt=lambda: None)
        return
    try:
        yield Stdin(stream=io.BufferedReader(raw, 1 << 20), interrupt=raw.interrupt)
    finally:
        raw.interrupt()


@asynccontextmanager
async def hold_lock(folder: JobFolder) -> AsyncIterator[None]:
    """Hold the lock of *folder*, which may have to be waited for, until the end of the block."""
    lock = folder.lock()
    taking = asyncio.ensure_future(asyncio.to_thread(lock.__enter__))
    try:
        await asyncio.shield(taking)
    except asyncio.CancelledError:
        await asyncio.wait([taking])
        if taking.exception() is None:
            await asyncio.to_thread(lock.__exit__, None, None, None)
        raise
    except FolderLockedError as error:
        others = "-o" if folder.shard == "1-of-1" else "-o or --shard"
        raise FolderLockedError(f"{error}, or choose another {others}") from error
    try:
        yield
    except BaseException as error:
        await asyncio.to_thread(lock.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(lock.__exit__, None, None, None)


def say(text: str) -> None:
    """Print *text* on stderr."""
    click.echo(text, err=True)


async def complete(
    request: Request,
    model: Model,
    folder: JobFolder,
    make_run: Callable[[Work], Run],
    stdin: Stdin | None = None,
) -> int:
    """Do what is left of the job of *folder*, which is locked; return the exit status.

    Args:
        stdin: None if it is not among the inputs.
    """
    finished = await asyncio.to_thread(_find_finished, request, model, folder)
    if finished is not None:
        return _report(request, finished.job, finished.total, seconds=None)
    work = await asyncio.to_thread(_open_work, request, model, folder, stdin)
    if work.units is not None and not work.units and folder.read(SUCCESS) is not None:
        numbers = [unit.part for unit in work.job.units()]
        total = await asyncio.to_thread(count_parts, folder, numbers)
        return _report(request, work.job, total, seconds=None)
    done = await _do(request, work, make_run(work))
    return INTERRUPTED if done is None else await _finish(request, work, folder, done)


def _check(request: Request) -> None:
    """Raise `InvalidInputError` if options exclude each other, or an input is the output."""
    target, is_folder = request.target, request.options.output is Output.FOLDER
    if is_folder and isinstance(target, Path) and target.exists() and not target.is_dir():
        raise InvalidInputError(
            f"{target} is a file, and this output is a folder: choose another -o, or a file that "
            "ends in .parquet, .npy, .jsonl or .arrow"
        )
    if request.options.output is Output.STDOUT and request.shard != (1, 1):
        raise InvalidInputError("shards need a folder or a file: stdout is not shared")
    if STDIN not in request.inputs:
        paths = find_paths(request.inputs, _format_of(request))
        check_format(request.form, [form for _, form in paths])
        if request.options.output is not Output.STDOUT:
            check_apart([name for name, _ in paths], target, is_folder=is_folder)
            check_outside(request.inputs, request.target)
        return
    if len(request.inputs) > 1:
        raise InvalidInputError("- is stdin, and cannot be an input beside others")
    if request.form is None:
        raise InvalidInputError("stdin has no ending that names its format: add --format")
    if request.shard != (1, 1) or request.dry_run:
        raise InvalidInputError("stdin is read once: --shard and --dry-run need files")


def check_format(named: str | None, found: Collection[Format]) -> None:
    """Check that the format that was *named* is that of an input, of those that were *found*.

    Raises:
        InvalidInputError: The endings of all inputs name others.
    """
    if named is not None and named not in found:
        raise InvalidInputError(
            f"--format {named} has no effect: it is of inputs whose ending names none, and all "
            f"have one ({', '.join(sorted(set(found)))}). Leave it out, or rename the inputs"
        )


def _find_finished(request: Request, model: Model, folder: JobFolder) -> Finished | None:
    """The record of the output if this command has made it before, as a whole.

    Raises:
        InvalidInputError: It was made by another command.
    """
    is_file = request.options.output is not Output.FOLDER
    if request.restart or not is_file or STDIN in request.inputs or folder.read(JOB) is not None:
        return None
    target = request.target
    if request.options.output is Output.NPY and not ids_path(target).exists():
        return None
    finished = read_finished(target)
    if finished is not None:
        folder.remove_folder("")  # it has the lock of this process, or what a crash left
        paths = find_paths(request.inputs, _format_of(request))
        check_same(finished, target, request.options, model, paths)
    return finished


def _format_of(request: Request) -> Format | None:
    return None if request.form is None else Format(request.form)


def _open_work(
    request: Request, model: Model, folder: JobFolder | None, stdin: Stdin | None
) -> Work:
    """Plan the job, or find what is left of it; *folder* is None where the output is a stream."""
    options = request.options
    form = _format_of(request)
    if form is not None and stdin is not None and STDIN in request.inputs:
        stream = StreamUnits(stdin.stream, form, fit_limits(Limits(), options.wanted, model))
        selection = choose_selection(options, stream.find_columns(), size=0)
        job = Job(options=options, model=model, selection=selection, planned=())
        if folder is not None:
            if request.restart:
                clear(folder, request.target, options.output)
            begin_stream(folder, request.target, job)
        return Work(
            job=job,
            read=stream.iterate(selection, typed=is_typed(options.output), limit=options.limit),
            units=None,
            progress=Progress(rows=None, size=None, parts=None),
            budget=ErrorBudget(most=request.most_errors),
        )
    paths = find_paths(request.inputs, form)
    if folder is None:
        job, done = plan(options, model, make_sources(paths), Limits()), set[int]()
    else:
        if request.restart:
            check_columns(options, make_sources(paths))
            clear(folder, request.target, options.output)
        job = open_job(folder, request.target, options, model, paths, notify=say)
        done = complete_parts(folder, job)
    units = choose_units(job, done, request.shard)
    own = {part for part in done if is_of_shard(part, request.shard)}
    before = Counts() if folder is None else count_parts(folder, own)
    others = Counts() if folder is None else count_parts(folder, done - own)
    of_all = before + others
    return Work(
        job=job,
        read=read_units(job, units),
        units=units,
        progress=Progress(
            rows=sum(unit.range.rows for unit in units),
            size=sum(unit.range.size for unit in units),
            parts=len(units),
            done_rows=of_all.rows + of_all.errors,
            done_parts=len(done),
        ),
        budget=ErrorBudget(most=request.most_errors, count=of_all.errors),
        before=before,
    )


def _make_run(work: Work, pool: Pool, sink: Sink, stdin: Stdin) -> Run:
    """Return what does *work* in this process; rows that have not come yet are not waited for."""

    async def run_here(stop: asyncio.Event) -> Counts:
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: stdin.interrupt())
        try:
            return await run_units(
                work.job,
                work.read,
                pool=pool,
                sink=sink,
                progress=work.progress,
                budget=work.budget,
                stop=stop,
            )
        finally:
            stopping.cancel()

    return run_here


async def _do(request: Request, work: Work, run_work: Run) -> Counts | None:
    """Run the units that are left, and show how far they are; return what they came to.

    None: they were interrupted.
    """
    done: Counts | None = None
    with listen_to_interrupts() as stop, open_display(request.progress, work.progress):
        try:
            done = await run_work(stop)
        except ErrorBudgetError:
            raise  # the same command would end there again
        except EmbeddError:
            _say_what_is_kept(request, work)
            raise
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
    if done is None or not work.progress.is_complete:
        click.echo(f"interrupted: {_describe_rest(request, work)}", err=True)
        return None
    return done


def _describe_rest(request: Request, work: Work) -> str:
    if work.units is None:
        return "stdin cannot be continued: --restart"
    if request.options.output is Output.STDOUT:
        return "what was written to stdout cannot be continued"
    now = work.progress.snapshot()
    return f"{now.parts} of {now.of_parts} parts are kept, {CONTINUE}"


def _report_stream(work: Work, done: Counts) -> int:
    """Say what an output on stdout came to, and return the exit status."""
    seconds = work.progress.snapshot().seconds
    click.echo(describe_totals(done, seconds=seconds, size=None), err=True)
    _say_left_out(done)
    return WITH_ERRORS if done.errors else 0


async def _finish(request: Request, work: Work, folder: JobFolder, done: Counts) -> int:
    """Complete the output, say what it came to, and return the exit status."""
    job = work.job
    units = range(work.progress.parts) if work.units is None else [u.part for u in job.units()]
    try:
        total = await asyncio.to_thread(finish_job, folder, request.target, job, units)
    except EmbeddError:
        _say_what_is_kept(request, work)
        raise
    if total is None:
        seconds = work.progress.snapshot().seconds
        return _report_shard(request, work.before + done, seconds=seconds)
    return _report(request, job, total, seconds=work.progress.snapshot().seconds)


def _say_what_is_kept(request: Request, work: Work) -> None:
    """Say, above an error, whether the same command goes on after it."""
    if work.units is not None and request.options.output is not Output.STDOUT:
        click.echo(f"Finished parts are kept: {CONTINUE}.", err=True)


def _report(request: Request, job: Job, total: Counts, *, seconds: float | None) -> int:
    """Say what the output came to, and return the exit status.

    Args:
        seconds: That it took; None if it was complete before.
    """
    target, options = request.target, request.options
    output = options.output
    more = [ids_path(target)] if output is Output.NPY else []
    size = measure_output(target, more)
    click.echo(describe_totals(total, seconds=seconds, size=size), err=True)
    _say_left_out(total)
    if total.rows and seconds is not None and request.progress != "none":
        for line in describe_reading(
            target,
            output,
            job.selection,
            width=job.model.width,
            dtype=options.wanted.dtype,
            chunked=options.wanted.chunk is not None,
        ):
            click.echo(f"  {line}", err=True)
    if not total.errors:
        return 0
    click.echo(f"rows without a vector: {describe_errors(target, output)}", err=True)
    return WITH_ERRORS


def _say_left_out(total: Counts) -> None:
    if total.left_out:
        say(describe_left_out(total.left_out))


def _report_shard(request: Request, total: Counts, *, seconds: float) -> int:
    """Say what a shard came to that is not the last one, and return the exit status."""
    said = describe_totals(total, seconds=seconds, size=None)
    click.echo(f"this shard is done: {said}; the output is completed by another shard", err=True)
    _say_left_out(total)
    if not total.errors:
        return 0
    place = describe_errors(request.target, request.options.output)
    click.echo(f"rows without a vector: {place}, once the output is complete", err=True)
    return WITH_ERRORS


@contextmanager
def listen_to_interrupts() -> Iterator[asyncio.Event]:
    """Yield an event that the first Ctrl-C (or SIGTERM) sets; the second cancels this task."""
    stop = asyncio.Event()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if stop.is_set():
            if task is not None:
                task.cancel()
            return
        stop.set()
        # Not `click.echo`, which does not know of the bar below which this would stand.
        sys.stderr.write("finishing the parts in work; press Ctrl-C again to stop now\n")
        sys.stderr.flush()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
