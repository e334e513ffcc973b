"""The end of a job: errors in one file, parts joined to one file where the output is one."""

import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from embedd.bulk.commit import (
    ERRORS,
    JOB,
    SUCCESS,
    Counts,
    complete_parts,
    finished_parts,
    part_name,
    read_records,
    render_failures,
)
from embedd.bulk.compute import numpy_type
from embedd.bulk.finished import encode_finished, finished_path
from embedd.bulk.folder import JobFolder, naming
from embedd.bulk.job import BETWEEN, Job, describe_vectors
from embedd.bulk.parts import (
    ROWS_MEMBER,
    VECTORS_MEMBER,
    Output,
    Part,
    output_columns,
    write_part,
)
from embedd.bulk.remote import RemotePath, Target
from embedd.bulk.sources import has_arrow
from embedd.errors import ServiceError

PIECE: Final = 1 << 20


def count_parts(folder: JobFolder, numbers: Iterable[int]) -> Counts:
    """Return what the parts of these numbers came to."""
    total = Counts()
    for record in read_records(folder, numbers):
        if record is not None:
            total += record.counts
    return total


def finish_job(
    folder: JobFolder, target: Target, job: Job, numbers: Sequence[int]
) -> Counts | None:
    """Complete the output; return None if that is another shard's: it has parts left, or did it.

    Args:
        numbers: Of all parts.
    """
    with folder.turn() as is_there:
        if not is_there:
            return None
        if folder.read(JOB) is None:  # removed while this process made its lock file in it
            if job.options.output is not Output.FOLDER:  # which may have files of the user's
                folder.remove_folder("")
            return None
        # What is on a disk was whole when this command began, or has been made since.
        done = (
            finished_parts(folder, job.options.output)
            if folder.is_exclusive
            else complete_parts(folder, job)
        )
        if set(numbers) <= done:
            return _finish(folder, target, job, numbers)
    return None


def _finish(folder: JobFolder, target: Target, job: Job, numbers: Sequence[int]) -> Counts:
    total = count_parts(folder, numbers)
    output = job.options.output
    errors = folder.path(ERRORS) if output is Output.FOLDER else errors_path(target)
    if total.errors:
        _replace(errors, lambda path: _write_errors(path, folder, numbers))
    else:
        errors.unlink(missing_ok=True)
    if output is not Output.FOLDER:
        _join(folder, target, job, numbers, total)
        _replace(
            finished_path(target),
            lambda path: path.write_bytes(encode_finished(target, job, total)),
        )
    folder.replace(SUCCESS, msgspec.json.encode(total))
    if output is not Output.FOLDER:
        folder.remove(JOB)  # first: a shard that comes now sees that nothing is left to do
        folder.remove_folder("")
    return total


def errors_path(target: Target) -> Target:
    """Return where the failures of the output file *target* are."""
    return target.with_name(f"{target.name}.{ERRORS}")


def ids_path(target: Target) -> Target:
    """Return where the ids of the rows of the ``npy`` file *target* are."""
    return target.with_suffix(".ids.parquet" if has_arrow() else ".ids.jsonl")


def _write_errors(path: Path, folder: JobFolder, numbers: Iterable[int]) -> None:
    with path.open("wb") as file:
        for record in read_records(folder, numbers):
            file.writelines(render_failures(record.failures if record else ()))


def _join(
    folder: JobFolder, target: Target, job: Job, numbers: Sequence[int], total: Counts
) -> None:
    output = job.options.output
    names = [part_name(number, output) for number in numbers] or [_write_empty(folder, job)]
    if output is Output.JSONL:
        _replace(target, lambda path: _concatenate(path, folder.fetch(names)))
        return
    facts = describe_vectors(job, _find_backends(folder, numbers))
    if output is Output.NPY:
        _replace(ids_path(target), lambda path: _join_rows(path, folder.fetch(names), facts))
        _replace(
            target,
            lambda path: _join_vectors(path, folder.fetch(names), job, total.vectors),
        )
    else:
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        as_parquet = output is Output.PARQUET
        _replace(
            target,
            lambda path: tables.join_parts(path, folder.fetch(names), facts, as_parquet=as_parquet),
        )


def _find_backends(folder: JobFolder, numbers: Iterable[int]) -> str:
    """Return what computed the parts of these numbers, as a part says it."""
    found = {
        one
        for record in read_records(folder, numbers)
        if record is not None and record.counts.vectors
        for one in record.served_by.split(BETWEEN)
    }
    return BETWEEN.join(sorted(found))


def _write_empty(folder: JobFolder, job: Job) -> str:
    """Write a part without rows, for the output of a job without any; return its name."""
    wanted, output = job.options.wanted, job.options.output
    columns = output_columns(job.selection, chunked=wanted.chunk is not None)
    part = Part(
        columns=columns,
        values={column.name: [] for column in columns},
        vectors=np.zeros((0, job.model.width), numpy_type(wanted.dtype)),
        facts={},
    )
    folder.add("empty", lambda path: write_part(path, part, output))
    return "empty"


def _concatenate(path: Path, parts: Iterable[Path]) -> None:
    with path.open("wb") as file:
        for part in parts:
            with part.open("rb") as one:
                shutil.copyfileobj(one, file, PIECE)


def _join_vectors(path: Path, parts: Iterable[Path], job: Job, count: int) -> None:
    """Write one array from those of *parts*, of which only a piece is in memory at a time."""
    dtype = numpy_type(job.options.wanted.dtype)
    shape = (count, job.model.width)
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        expected = file.tell() + count * job.model.width * dtype.itemsize
        for part in parts:
            with zipfile.ZipFile(part) as archive, archive.open(VECTORS_MEMBER) as member:
                np.lib.format.read_magic(member)
                np.lib.format.read_array_header_1_0(member)
                shutil.copyfileobj(member, file, PIECE)
        if file.tell() != expected:
            raise ServiceError(f"the parts have {file.tell()} bytes and not {expected}")


def _join_rows(path: Path, parts: Iterable[Path], facts: Mapping[str, str]) -> None:
    if has_arrow():
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        tables.join_ids(path, _open_rows(parts), facts)
        return
    with path.open("wb") as file:
        for rows in _open_rows(parts):
            file.write(rows)


def _open_rows(parts: Iterable[Path]) -> Iterator[bytes]:
    for part in parts:
        with zipfile.ZipFile(part) as archive:
            yield archive.read(ROWS_MEMBER)


def _replace(path: Target, write: Callable[[Path], object]) -> None:
    """Let *write* fill a file beside *path*, and put it into its place once it is complete."""
    if isinstance(path, RemotePath):
        path.fill(write)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left = re.compile(rf"\.tmp-\d+-{re.escape(path.name)}")  # by a command that was killed
    for one in path.parent.iterdir():
        if left.fullmatch(one.name):
            one.unlink(missing_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with naming(path):
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
