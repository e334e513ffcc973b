"""The record of an output that is one file: it remains when its parts are gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from embedd.bulk.commit import Counts
from embedd.bulk.job import Job, Model, Options, find_difference, find_new
from embedd.bulk.remote import RemotePath, Target
from embedd.bulk.sources import File, Format, make_sources, read_file_facts
from embedd.bulk.stores import is_remote, without_query
from embedd.errors import InvalidInputError

ENDING: Final = ".job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job that is done.

    Args:
        size, digest: Of its output, as in `File`.
    """

    job: Job
    total: Counts
    size: int
    digest: str


def finished_path(target: Target) -> Target:
    """Return where the record of the output file *target* is."""
    return target.with_name(target.name + ENDING)


def check_replaceable(target: Target) -> None:
    """Check that a job may replace *target*: it is not there, or a job made it.

    Raises:
        InvalidInputError: It is a file of the user's own.
    """
    if target.exists() and not finished_path(target).exists():
        raise InvalidInputError(
            f"{target} was not made by embedd bulk: choose another -o, or delete it first"
        )


def check_outside(names: Sequence[str], target: Target) -> None:
    """Check that *target* is in none of the folders among the *names* of inputs.

    Raises:
        InvalidInputError: It is: the next command would find its parts there.
    """
    for name in names:
        if isinstance(target, RemotePath) or is_remote(name):
            is_in = str(target).startswith(f"{without_query(name).rstrip('/')}/")
        else:
            is_in = Path(name).is_dir() and target.resolve().is_relative_to(Path(name).resolve())
        if is_in:
            raise InvalidInputError(
                f"the output {target} is in the folder of inputs {name}: choose another -o"
            )


def check_apart(inputs: Sequence[str], target: Target, *, is_folder: bool) -> None:
    """Check that no input is the output, or in it if that *is_folder*, or in its parts.

    Raises:
        InvalidInputError: One is.
    """
    parts = target.with_name(f"{target.name}.parts")
    for name in inputs:
        if not is_folder and _is_in(name, parts):
            raise InvalidInputError(
                f"{name} is of the output's own parts: give inputs that leave {parts} out"
            )
        if _is_same(name, target) or (is_folder and _is_in(name, target)):
            raise InvalidInputError(
                f"{name} is an input, and would be thrown away with the output {target}: choose "
                "another -o"
            )


def _is_same(name: str, target: Target) -> bool:
    if isinstance(target, RemotePath) or is_remote(name):
        return without_query(name) == str(target)
    return Path(name).resolve() == target.resolve()


def _is_in(name: str, target: Target) -> bool:
    if isinstance(target, RemotePath) or is_remote(name):
        return without_query(name).startswith(f"{target}/")
    return Path(name).resolve().is_relative_to(target.resolve())


def encode_finished(target: Target, job: Job, total: Counts) -> bytes:
    """Return the record of *target*, which is complete."""
    facts = _read_facts(target)
    finished = Finished(job=job, total=total, size=facts.size, digest=facts.digest)
    return msgspec.json.format(msgspec.json.encode(finished), indent=1)


def read_finished(target: Target) -> Finished | None:
    """Return the record of *target*; None if there is none, or *target* is not what it made."""
    try:
        data = finished_path(target).read_bytes()
        facts = _read_facts(target)
        finished = msgspec.json.decode(data, type=Finished)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    is_same = (facts.size, facts.digest) == (finished.size, finished.digest)
    return finished if is_same else None


def check_same(
    finished: Finished,
    target: Target,
    options: Options,
    model: Model,
    paths: Sequence[tuple[str, Format]],
) -> None:
    """Check that a command would make *target* again as it is.

    Raises:
        InvalidInputError: It would not; the message says what differs.
    """
    difference = find_difference(finished.job, options, model)
    if difference is None:
        new, difference = find_new(finished.job, make_sources(paths))
        if new:
            difference = f"the input {new[0]} is new"
    if difference is not None:
        raise InvalidInputError(
            f"{target} is of another job: {difference}. --restart computes it anew, another -o "
            "keeps it"
        )


def _read_facts(target: Target) -> File:
    """What identifies *target*.

    Raises:
        FileNotFoundError: It is missing.
    """
    if not isinstance(target, RemotePath):
        return read_file_facts(str(target))
    if not target.exists():
        raise FileNotFoundError(str(target))
    return read_file_facts(target.uri)
