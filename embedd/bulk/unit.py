"""The vectors of the rows of a unit: equal texts once, texts of like length together."""

import asyncio
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.bulk.compute import REQUEST_TEXTS, REQUEST_TOKENS, Numbers, Pool
from embedd.bulk.reading import Rows
from embedd.bulk.records import Failure
from embedd.errors import (
    EmbeddError,
    InvalidModelNameError,
    ModelNotFoundError,
    RequestError,
    ServiceError,
    UnauthorizedError,
    UnsupportedError,
)
from embedd.types import Arrays, ChunkPlace

# Errors that are not one text's.
OF_ALL: Final = (ModelNotFoundError, InvalidModelNameError, UnauthorizedError, UnsupportedError)
# What a request says of one of its texts; its number there means nothing in a file.
_TOO_LONG: Final = re.compile(r"has \d+ tokens, the limit is \d+")
_IN_A_FILE: Final = (
    (re.compile(r" \(input \d+\)"), ""),
    (re.compile(r"\(input \d+, "), "("),
    (re.compile(r"\binput \d+\b|^input\b"), "the text"),
    (re.compile(r"\bchunk\.overlap\b"), "--overlap"),
)
# Called with what was done since the last call: rows, tokens, texts cut, rows failed, and the
# share of all characters of the unit.
Report: TypeAlias = Callable[[int, int, int, int, float], None]
# Called with texts that were computed, or with one that failed.
_Done: TypeAlias = Callable[[Sequence[int], Arrays | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The vectors of a unit.

    Args:
        rows: For each vector the index of its row in `Rows`; ascending.
        places: For each vector the chunk of its row and where that is, if texts were cut into
            chunks.
        failures: Rows without a vector, in order.
        tokens: That were computed.
        cut: Texts that were cut.
        served_by: What computed them, each as `Arrays.served_by`, sorted; empty without vectors.
    """

    rows: npt.NDArray[np.intp]
    vectors: Numbers
    places: Sequence[tuple[int, int, int]] | None
    failures: Sequence[Failure]
    tokens: int
    cut: int
    served_by: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class _Work:
    """The distinct texts of a unit and what is known of each.

    Attributes:
        matrix: The vector of each text, where texts are not cut into chunks.
        vectors: Those of the chunks of each text.
        chunks: Where they are.
        errors: Texts that failed.
        served_by: What computed vectors.
        advice: What to do about a text that is too long.
    """

    texts: Sequence[str]
    matrix: Numbers
    advice: str
    vectors: dict[int, Numbers] = field(default_factory=dict)
    chunks: dict[int, Sequence[ChunkPlace]] = field(default_factory=dict)
    errors: dict[int, EmbeddError] = field(default_factory=dict)
    served_by: set[str] = field(default_factory=set)
    tokens: int = 0
    cut: int = 0


async def embed_rows(
    rows: Rows, pool: Pool, report: Report, *, empty: Numbers, advice: str = "shorten it"
) -> Embedded:
    """Return a vector for each of *rows*, or for each of its chunks, or why it has none.

    Args:
        empty: Vectors for no rows, shape (0, numbers).
        advice: What to do about a text that is too long, in the words of the caller's options.

    Raises:
        EmbeddError: The cause is not in a row.
    """
    numbers: dict[str, int] = {}
    own = [numbers.setdefault(text, len(numbers)) for text in rows.texts]
    counts = np.bincount(own, minlength=len(numbers)) if own else np.zeros(0, np.intp)
    # One array for all answers: two units of it are most of what a job keeps in memory.
    work = _Work(texts=list(numbers), matrix=_allocate(len(numbers), empty), advice=advice)
    whole = sum(map(len, work.texts)) + len(work.texts)

    def done(indices: Sequence[int], computed: Arrays | None) -> None:
        of_all = int(counts[list(indices)].sum())
        share = sum(len(work.texts[index]) + 1 for index in indices) / whole
        if computed is None:
            report(of_all, 0, 0, of_all, share)
        else:
            work.tokens += computed.tokens
            work.cut += computed.cut
            report(of_all, computed.tokens, computed.cut, 0, share)

    report(len(rows.failures), 0, 0, len(rows.failures), 0.0 if own else 1.0)
    try:
        async with asyncio.TaskGroup() as group:
            for indices in _group(work.texts, pool):
                group.create_task(_embed_group(work, indices, pool, done))
    except BaseExceptionGroup as errors:
        raise choose_error(errors) from errors
    return await asyncio.to_thread(_assemble, rows, own, work, empty)


def choose_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, one that is not embedd's own if there is one."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [errors]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        else:
            found.append(error)
    return next((one for one in found if not isinstance(one, EmbeddError)), found[0])


def _allocate(count: int, empty: Numbers) -> Numbers:
    """Return an array of *count* vectors like *empty*, whose memory goes back once it is freed.

    malloc keeps blocks of this size, in pieces that the next array does not fit.
    """
    size = count * empty.shape[1] * empty.itemsize
    if not size:
        return empty
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, empty.dtype).reshape(count, empty.shape[1])


def _group(texts: Sequence[str], pool: Pool) -> Iterator[list[int]]:
    """Indices of *texts*, the longest first, in groups of some `REQUEST_TOKENS`."""
    group: list[int] = []
    tokens = 0.0
    for index in sorted(range(len(texts)), key=lambda one: -len(texts[one])):
        more = pool.estimate_tokens(len(texts[index]))
        if group and (tokens + more > REQUEST_TOKENS or len(group) == REQUEST_TEXTS):
            yield group
            group, tokens = [], 0.0
        group.append(index)
        tokens += more
    if group:
        yield group


async def _embed_group(
    work: _Work,
    indices: Sequence[int],
    pool: Pool,
    done: _Done,
) -> None:
    """Embed some texts: those at fault are found, and the others computed without them."""
    waiting = [list(indices)]
    while waiting:
        group = waiting.pop()
        try:
            computed = await pool.compute([work.texts[index] for index in group])
        except (RequestError, ServiceError) as error:
            waiting += _divide(work, group, error, done)
        else:
            _store(work, group, computed)
            done(group, computed)


def _divide(
    work: _Work,
    group: list[int],
    error: EmbeddError,
    done: _Done,
) -> list[list[int]]:
    """Return what is to be tried again of a group that failed; raise an *error* of no text."""
    is_named = error.index is not None and 0 <= error.index < len(group)
    is_of_texts = isinstance(error, RequestError) and not isinstance(error, OF_ALL)
    if not is_named and not is_of_texts:
        raise error
    if is_named or len(group) == 1:
        index = group[error.index if is_named and error.index is not None else 0]
        work.errors[index] = error
        done([index], None)
        rest = [one for one in group if one != index]
        return [rest] if rest else []
    half = len(group) // 2
    return [group[half:], group[:half]]


def _store(work: _Work, group: Sequence[int], computed: Arrays) -> None:
    work.served_by.add(computed.served_by)
    if computed.chunks is None:
        work.matrix[list(group)] = computed.vectors
        return
    inputs = np.array([place.input for place in computed.chunks], np.intp)
    ends = np.searchsorted(inputs, np.arange(len(group)), side="right")
    start = 0
    for index, end in zip(group, ends.tolist(), strict=True):
        work.vectors[index] = computed.vectors[start:end]
        work.chunks[index] = computed.chunks[start:end]
        start = end


def _assemble(rows: Rows, own: Sequence[int], work: _Work, empty: Numbers) -> Embedded:
    """Put the vectors of texts into the order of rows."""
    good = [row for row, index in enumerate(own) if index not in work.errors]
    failures = [
        _fail(rows, row, work.errors[index], work.advice)
        for row, index in enumerate(own)
        if index in work.errors
    ]
    if work.vectors:
        found = [work.vectors[own[row]] for row in good]
        order = np.repeat(np.array(good, np.intp), [len(one) for one in found])
        vectors = np.concatenate([empty, *found])
    else:
        order = np.array(good, np.intp)
        is_as_computed = len(good) == len(own) == len(work.texts)
        vectors = work.matrix if is_as_computed else work.matrix[np.array(own, np.intp)[order]]
    places = [
        (number, one.start, one.end)
        for row in good
        for number, one in enumerate(work.chunks.get(own[row], ()))
    ]
    return Embedded(
        rows=order,
        vectors=vectors,
        places=places or None,
        failures=sorted([*rows.failures, *failures], key=lambda one: one.row),
        tokens=work.tokens,
        cut=work.cut,
        served_by=sorted(work.served_by - {""}),
    )


def _fail(rows: Rows, row: int, error: EmbeddError, advice: str) -> Failure:
    return Failure(
        file=rows.file_of(row),
        row=rows.numbers[row],
        line=rows.lines[row] if rows.lines else None,
        id=rows.id_of(row),
        error=_describe(error, advice),
        tokens=error.tokens,
        limit=error.limit,
    )


def _describe(error: EmbeddError, advice: str) -> str:
    """Return the words of the *error* of a request's text for a row of a file."""
    if found := _TOO_LONG.search(str(error)):
        return f"the text {found[0]}: {advice}"
    text = str(error)
    for of_request, of_file in _IN_A_FILE:
        text = of_request.sub(of_file, text)
    return text
