"""A job is begun, or gone on with if it is the same."""

from collections.abc import Callable, Sequence

from embedd.bulk.commit import ERRORS, JOB, SUCCESS, finished_parts, part_name
from embedd.bulk.ending import errors_path, ids_path
from embedd.bulk.finished import check_replaceable, finished_path
from embedd.bulk.folder import RECORDS, Folder, JobFolder
from embedd.bulk.job import (
    Job,
    Model,
    Options,
    decode_job,
    extend,
    find_difference,
    find_left_out,
    find_new,
    plan,
    read_heads,
)
from embedd.bulk.parts import Output
from embedd.bulk.remote import RemotePath, Target
from embedd.bulk.remote_folder import RemoteFolder
from embedd.bulk.sources import Format, make_sources
from embedd.bulk.units import Limits, Unit
from embedd.errors import InvalidInputError


def folder_of(
    target: Target,
    output: Output,
    shard: str,
    *,
    notify: Callable[[str], object] = lambda _text: None,
) -> JobFolder:
    """Return the folder in which the parts of the output *target* are made.

    Args:
        notify: Called with a text when a lock has to be waited for.
    """
    root = target if output is Output.FOLDER else target.with_name(f"{target.name}.parts")
    return open_folder(root, shard, notify=notify)


def open_folder(
    root: Target, shard: str, *, notify: Callable[[str], object] = lambda _text: None
) -> JobFolder:
    """Return the folder *root* of a job, see `folder_of`."""
    if isinstance(root, RemotePath):
        return RemoteFolder(root, shard, notify=notify)
    return Folder(root, shard)


def open_job(
    folder: JobFolder,
    target: Target,
    options: Options,
    model: Model,
    paths: Sequence[tuple[str, Format]],
    *,
    limits: Limits | None = None,
    notify: Callable[[str], object] = lambda _text: None,
) -> Job:
    """Return the job of *folder*, begun now if it is a new one; further inputs come behind.

    The folder must be locked.

    Args:
        notify: Called with a text when further inputs have columns that the output has not.

    Raises:
        InvalidInputError: The folder has the parts of another job; the message says what differs.
    """
    limits = limits or Limits()
    data = folder.read(JOB)
    if data is None:
        _check_free(folder, target, options.output)
        job = plan(options, model, make_sources(paths), limits)
        if folder.create(JOB, job.encode()):
            return job
        data = folder.read(JOB) or b""  # another shard was first
    job = decode_job(data)
    difference = find_difference(job, options, model)
    new: list[str] = []
    if difference is None:
        new, difference = find_new(job, make_sources(paths))
    if difference is not None:
        raise InvalidInputError(
            f"{folder.root} is of another job: {difference}. --restart throws away what is there, "
            "another -o keeps it"
        )
    if new:
        added = read_heads(job.options, make_sources([one for one in paths if one[0] in set(new)]))
        job = extend(job, added, limits)
        if left_out := find_left_out(job, added):
            notify(
                f"left out of the inputs that were added: {', '.join(left_out)}; the columns of "
                "the output are those of its first inputs, and --restart begins anew with all"
            )
        folder.remove(SUCCESS)
        folder.replace(JOB, job.encode())
    return job


def begin_stream(folder: JobFolder, target: Target, job: Job) -> None:
    """Record a *job* whose rows come from a stream, which can be read once only.

    Raises:
        InvalidInputError: The folder has a job.
    """
    is_new = folder.read(JOB) is None
    if is_new:
        _check_free(folder, target, job.options.output)
    if not is_new or not folder.create(JOB, job.encode()):
        raise InvalidInputError(
            f"{folder.root} has a job, and stdin cannot be continued: choose another -o, or "
            "begin anew with --restart"
        )


def clear(folder: JobFolder, target: Target, output: Output) -> None:
    """Throw away what an earlier job made, and nothing else.

    Raises:
        InvalidInputError: The output is a file that no job made.
    """
    if output is not Output.FOLDER:
        check_replaceable(target)
    if not _is_of_job(folder, target, output):
        return  # what is there is the user's
    folder.remove(JOB)  # first: workers of it that still run on a cluster commit nothing then
    for number in finished_parts(folder, output):
        folder.remove(part_name(number, output))
    for name in (SUCCESS, ERRORS):
        folder.remove(name)
    for name in folder.list(RECORDS):
        if not name.startswith("lock-"):
            folder.remove(f"{RECORDS}/{name}")
    if output is not Output.FOLDER:
        target.unlink(missing_ok=True)
        for path in _companions(target, output):
            path.unlink(missing_ok=True)
        finished_path(target).unlink(missing_ok=True)


def choose_units(job: Job, done: set[int], shard: tuple[int, int] = (1, 1)) -> list[Unit]:
    """Return the units that are left for shard I of N."""
    return [u for u in job.units() if is_of_shard(u.part, shard) and u.part not in done]


def is_of_shard(part: int, shard: tuple[int, int]) -> bool:
    """Whether shard I of N has a *part*: it has every Nth from the Ith on."""
    index, of = shard
    return part % of == index - 1


def _companions(target: Target, output: Output) -> list[Target]:
    """Return the files that an output file may have beside it."""
    return [errors_path(target), *([ids_path(target)] if output is Output.NPY else [])]


def _is_of_job(folder: JobFolder, target: Target, output: Output) -> bool:
    """Whether a job has made what is in the place of the output, as far as its records say."""
    if any(not name.startswith("lock-") for name in folder.list(RECORDS)):
        return True
    return output is not Output.FOLDER and finished_path(target).exists()


def _check_free(folder: JobFolder, target: Target, output: Output) -> None:
    """Check that no file is where the job would write.

    Raises:
        InvalidInputError: One is, and it stays.
    """
    parts = sorted(part_name(number, output) for number in finished_parts(folder, output))
    own = {ERRORS, SUCCESS} & folder.list() if output is Output.FOLDER else set()
    for name in (*parts, *sorted(own)):
        raise InvalidInputError(
            f"{folder.root} has {name} and no record of its job: choose another -o, or delete it "
            "first"
        )
    if output is Output.FOLDER:
        return
    check_replaceable(target)
    if target.exists():
        raise InvalidInputError(
            f"{target} exists: choose another -o, or compute it anew with --restart"
        )
    for path in _companions(target, output):
        if path.exists() and not finished_path(target).exists():
            raise InvalidInputError(
                f"{path} was not made by embedd bulk: choose another -o, or delete it first"
            )
