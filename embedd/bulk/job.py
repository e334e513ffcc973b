"""The record of a job: what decides its vectors and its parts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Final

import msgspec

from embedd.bulk.columns import ALL, CHUNK, NONE, Column, Selection, choose_text, select
from embedd.bulk.compute import Wanted, numpy_type
from embedd.bulk.parts import Output, is_typed
from embedd.bulk.reading import Head, check_head, read_head, scan
from embedd.bulk.sources import File, Format, Source
from embedd.bulk.union import join_columns
from embedd.bulk.units import Limits, Range, Unit
from embedd.errors import InvalidInputError
from embedd.names import is_same_model

VERSION: Final = 1
VECTOR_BYTES: Final = 24 << 20  # of a unit; two units are most of what a job keeps in memory
TOKEN_BYTES: Final = 3  # of text for each token, at least about
BETWEEN: Final = ", "  # the backends that computed the vectors of one file
LARGE: Final = 1 << 30  # bytes of inputs from which on columns are carried along only if named


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command asked for, as far as it decides vectors and rows.

    Args:
        text: Column or template; None: found.
        id: Column; None: the number of the row.
        keep: ``all``, ``none`` or names; None: by the size of the inputs.
        limit: How many rows at most; None: all.
    """

    wanted: Wanted
    output: Output
    text: str | None = None
    id: str | None = None
    keep: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What decides the vectors of a text besides the options.

    Args:
        digest: First 12 digits of the weights' sha256.
        prefix: What is put before each text.
        width: Numbers of a vector, or bytes, of the dtype that is wanted.
    """

    digest: str
    prefix: str
    width: int
    normalize: str = "l2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A source and the ranges that it was cut into."""

    source: Source
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that decides which rows become which parts."""

    version: int = VERSION
    options: Options
    model: Model
    selection: Selection
    planned: tuple[Planned, ...]

    @property
    def keeps_all(self) -> bool:
        """Whether all columns are carried along that were known when the job began."""
        kept = (one.name for one in self.selection.keep)
        return self.options.keep in (None, ALL) and any(one != self.selection.id for one in kept)

    def encode(self) -> bytes:
        """Return the job as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def units(self) -> list[Unit]:
        """Return the units in order; there is a part for each."""
        ranges = [(number, one) for number, each in enumerate(self.planned) for one in each.ranges]
        firsts = accumulate((one.rows for _, one in ranges), initial=0)
        return [
            Unit(part=part, source=source, first_row=first, range=one)
            for part, ((source, one), first) in enumerate(zip(ranges, firsts, strict=False))
        ]


def decode_job(data: bytes) -> Job:
    """Return the job that `Job.encode` wrote.

    Raises:
        InvalidInputError: It is of another version, or damaged.
    """
    try:
        return msgspec.json.decode(data, type=Job)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(
            f"the job's record is not readable: {error}; --restart begins anew"
        ) from error


def fit_limits(limits: Limits, wanted: Wanted, model: Model) -> Limits:
    """Return *limits* with which the vectors of a unit have some `VECTOR_BYTES` at most."""
    most = max(1, VECTOR_BYTES // (model.width * numpy_type(wanted.dtype).itemsize))
    if wanted.chunk is None:
        return replace(limits, rows=min(limits.rows, most))
    # A row has any number of vectors: its text says how many.
    text = most * max(1, wanted.chunk - wanted.overlap) * TOKEN_BYTES
    return replace(limits, rows=min(limits.rows, most), bytes=min(limits.bytes, text))


def plan(
    options: Options,
    model: Model,
    sources: Sequence[Source],
    limits: Limits,
) -> Job:
    """Return a new job: a function of the inputs and the options.

    Raises:
        InvalidInputError: An input cannot be read, or has not the columns that are needed.
    """
    heads = read_heads(options, sources)
    selection = _select(options, heads)
    return Job(
        options=options,
        model=model,
        selection=selection,
        planned=_plan_sources(
            options, heads, selection, fit_limits(limits, options.wanted, model), rows=0
        ),
    )


def check_columns(options: Options, sources: Sequence[Source]) -> None:
    """Check, without reading their rows, that *sources* have the columns that are wanted.

    Raises:
        InvalidInputError: One has not.
    """
    heads = read_heads(options, sources)
    selection = _select(options, heads)
    for head in heads:
        _check_columns(head, options, selection)


def read_heads(options: Options, sources: Sequence[Source]) -> list[Head]:
    """Return what is known of *sources* without reading them, equal columns of several once.

    Where no columns are carried along those of JSON lines are not searched but in the first.

    Raises:
        InvalidInputError: One cannot be read.
    """
    keep = _choose_keep(options, sum(one.size for one in sources))
    heads: list[Head] = []
    known: dict[tuple[Column, ...], tuple[Column, ...]] = {}
    for source in sources:
        if keep == NONE and source.format is Format.JSONL and any(known):
            check_head(source)
            heads.append(Head(source=source, columns=(), has_rows=True))
            continue
        head = read_head(source)
        columns = known.setdefault(head.columns, head.columns) if head.has_rows else head.columns
        heads.append(replace(head, columns=columns))
    return heads


def find_left_out(job: Job, heads: Iterable[Head]) -> list[str]:
    """Return the columns of further inputs that *job* does not carry along with all others."""
    if not job.keeps_all:
        return []
    known = set(job.selection.columns)
    names = (one.name for head in heads if head.has_rows for one in head.columns)
    return [name for name in dict.fromkeys(names) if name not in known]


def extend(job: Job, heads: Sequence[Head], limits: Limits) -> Job:
    """Return *job* with the units of further inputs behind its own."""
    rows = sum(one.rows for each in job.planned for one in each.ranges)
    limits = fit_limits(limits, job.options.wanted, job.model)
    more = _plan_sources(job.options, heads, job.selection, limits, rows=rows)
    return replace(job, planned=(*job.planned, *more))


def choose_selection(
    options: Options,
    columns: Sequence[Column],
    *,
    size: int,
    first: Sequence[Column] | None = None,
) -> Selection:
    """Return which of the *columns* of the inputs are what.

    Args:
        size: Bytes of all inputs.
        first: The columns of the first input, of which one is the text if no option names it;
            None: it has all.

    Raises:
        InvalidInputError: A column is missing or ambiguous.
    """
    return select(
        columns,
        text=choose_text(columns if first is None else first)
        if options.text is None
        else options.text,
        id_=options.id,
        keep=_choose_keep(options, size),
        reserved=() if options.wanted.chunk is None else CHUNK,
    )


def _choose_keep(options: Options, size: int) -> str:
    if options.keep is not None:
        return options.keep
    return NONE if size > LARGE else ALL


def find_difference(job: Job, options: Options, model: Model) -> str | None:
    """Return what differs between *job* and the command that would go on with it, or None."""
    known = job.options.wanted.model
    if is_same_model(known, options.wanted.model):
        options = replace(options, wanted=replace(options.wanted, model=known))
    pairs: list[tuple[str, object, object]] = [
        (f"the model's {field.name}", getattr(job.model, field.name), getattr(model, field.name))
        for field in fields(Model)
    ]
    pairs += [
        (field.name, getattr(job.options.wanted, field.name), getattr(options.wanted, field.name))
        for field in fields(Wanted)
    ]
    pairs += [
        (field.name, getattr(job.options, field.name), getattr(options, field.name))
        for field in fields(Options)
        if field.name != "wanted"
    ]
    for name, before, now in pairs:
        if before != now:
            return f"{name} was {_show(before)} and is {_show(now)}"
    return None


def find_new(job: Job, sources: Iterable[Source]) -> tuple[list[str], str | None]:
    """Return the paths that *job* has not, and what differs in those that it has, or None."""
    if not job.planned:
        return [], "its rows are those of stdin"
    now = {file.path: file for source in sources for file in source.files}
    known = {file.path for one in job.planned for file in one.source.files}
    for one in job.planned:
        for file in one.source.files:
            difference = _compare(file, now.get(file.path))
            if difference is not None:
                return [], difference
    return [path for path in now if path not in known], None


def _select(options: Options, heads: Sequence[Head]) -> Selection:
    """Return which columns of all inputs together are what."""
    # Without rows it may have other types: those of an empty frame of pandas are null.
    full = [head for head in heads if head.columns and head.has_rows]
    if not full and heads[0].columns:
        full = [heads[0]]
    if not full:
        raise _no_columns(heads[0])
    union = join_columns(full)
    size = sum(one.source.size for one in heads)
    selection = choose_selection(options, union.columns, size=size, first=full[0].columns)
    for column in selection.keep if is_typed(options.output) else ():
        if column.name in union.conflicts:
            raise InvalidInputError(union.conflicts[column.name])
    return selection


def _no_columns(head: Head) -> InvalidInputError:
    if not head.has_rows:
        return InvalidInputError(f"{head.source.path} has no rows: its columns are not known")
    return InvalidInputError(
        f"{head.source.path} has no line that is a JSON object: write each object on a line of its "
        "own, as jq -c '.[]' does with an array"
    )


def _compare(before: File, now: File | None) -> str | None:
    if now is None:
        return f"the input {before.path} is missing"
    for field in fields(File):
        if getattr(before, field.name) != getattr(now, field.name):
            return f"the input {before.path} has changed ({field.name})"
    return None


def describe_vectors(job: Job, served_by: str) -> Mapping[str, str]:
    """Return what made the vectors of *job*: the facts that a file of them carries.

    Args:
        served_by: Of one backend, or of several with `BETWEEN` between them.
    """
    wanted, width = job.options.wanted, job.model.width
    facts = {
        "model": wanted.model,
        "served_by": served_by,
        "prefix": job.model.prefix,
        "dimensions": str(8 * width if wanted.dtype == "ubinary" else width),
        "numbers": str(width),
        "dtype": wanted.dtype,
        "normalize": job.model.normalize,
    }
    if wanted.chunk is not None:
        facts["chunk"] = f"{wanted.chunk} tokens, overlap {wanted.overlap}"
    return facts


def _show(value: object) -> str:
    return (
        "not set" if value is None else repr(value if not isinstance(value, Output) else str(value))
    )


def _plan_sources(
    options: Options, heads: Sequence[Head], selection: Selection, limits: Limits, *, rows: int
) -> tuple[Planned, ...]:
    planned = []
    for head in heads:
        _check_columns(head, options, selection)
        ranges: list[Range] = []
        for one in scan(head.source, limits, selection.text_columns):
            left = one.rows if options.limit is None else options.limit - rows
            if left <= 0:
                break
            ranges.append(one if one.rows <= left else _shorten(one, left))
            rows += ranges[-1].rows
        planned.append(Planned(source=head.source, ranges=tuple(ranges)))
    return tuple(planned)


def _shorten(one: Range, rows: int) -> Range:
    return replace(one, rows=rows, size=one.size * rows // one.rows)


def _check_columns(head: Head, options: Options, selection: Selection) -> None:
    """Check that an input has the columns that are needed; rows of JSON lines are checked later.

    Those that are carried along because all are may be missing.
    """
    if head.source.format is Format.JSONL or not head.has_rows:
        return
    texts, names = selection.text_columns, [column.name for column in head.columns]
    own = [] if selection.id is None else [selection.id]
    needed = [*texts, *own] if options.keep in (None, ALL) else selection.columns
    for name in needed:
        if name not in names:
            option = "--text" if name in texts else "--id" if name in own else "--keep"
            raise InvalidInputError(
                f"{head.source.path} has no column {name!r}: its columns are {', '.join(names)}. "
                f"Name with {option} what all inputs have, or give this one to a command of its own"
            )
