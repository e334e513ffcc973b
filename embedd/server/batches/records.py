"""What is known of an uploaded file and of a batch; times are seconds since 1970."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from embedd.bulk.requests import LineFault

DAY: Final = 86_400


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


class Status(StrEnum):
    """The state of a batch; the last four are final."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


class StoredFile(Struct, frozen=True, kw_only=True):
    """A file.

    Args:
        owner: Digest of the key that sent it, empty where access is unrestricted.
        name: As the client called it; never a path here.
        size: Bytes.
        number: Of the order in which records were made, within a second too.
    """

    id: str
    owner: str
    name: str
    purpose: Purpose
    size: int
    created: int
    expires: int
    number: int = 0


class Done(Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Args:
        position: Byte of the input before which all lines are answered.
        output_size, errors_size: Bytes of the two files of results.
        given_up: Requests that failed because the batch was cancelled or had expired.
    """

    position: int = 0
    completed: int = 0
    failed: int = 0
    given_up: int = 0
    tokens: int = 0
    output_size: int = 0
    errors_size: int = 0


class Batch(Struct, frozen=True, kw_only=True):
    """A batch, and how far it is.

    Args:
        output, errors: Ids of the two files; None where there is none yet, or no line of it.
        expires: When what is not computed yet is given up.
        removed: When the record and its files are deleted; None while it is not final.
        done: What is committed.
        faults: Why it failed.
        number: As in `StoredFile`.
    """

    id: str
    owner: str
    endpoint: str
    input: str
    window: str
    metadata: Mapping[str, str] | None
    status: Status
    created: int
    expires: int
    keep: int
    began: int | None = None
    finalizing: int | None = None
    cancelling: int | None = None
    ended: int | None = None
    removed: int | None = None
    output: str | None = None
    errors: str | None = None
    faults: tuple[LineFault, ...] = ()
    total: int = 0
    done: Done = Done()
    number: int = 0


def by_age(record: StoredFile | Batch) -> tuple[int, int]:
    """Key that sorts records in the order in which they were made."""
    return record.created, record.number
