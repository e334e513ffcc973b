"""Large JSON texts: counted first, then converted in slices.

A decoder holds the interpreter's lock for as long as one call takes: a second for some ten
megabytes of small lists, which then take a gigabyte. Here NumPy, which releases the lock, finds
where the elements of an object or list end; they are counted; and only if they are not too many
they are converted, `SLICE` bytes at a time. An element that is larger is cut in the same way.
"""

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.errors import InvalidInputError, MalformedBodyError, TooManyInputsError

Data: TypeAlias = bytes | bytearray
# A list of numbers: of int64 if all are whole. A Python list would take four times the room.
Numbers: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]
ParseSlice: TypeAlias = Callable[[bytes], object]

SLICE: Final = 1 << 16  # bytes that are decoded by one call, in a millisecond at most
MAX_LEVELS: Final = 8  # of values that are larger than a slice: each level is read once more
MAX_VALUES: Final = 1 << 20  # texts, lists and objects of one body, which take some 100 bytes each
MAX_NUMBERS: Final = 1 << 24  # of one body
FEW_NUMBERS: Final = 32  # a list of fewer stays a list
# Fields that may hold token ids; in others a list of numbers is like any other list.
ID_FIELDS: Final = frozenset({"input", "inputs", "ids", "tokens", "content"})
# Elements of a list, or fields of an object. More than most routes take, because a list with one
# number in it may be a single input.
MAX_ITEMS: Final = 100_000

_SPACE: Final = re.compile(rb"(?:\xef\xbb\xbf|[ \t\r\n])*")
_KEY: Final = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_CLOSING: Final = {ord("["): ord("]"), ord("{"): ord("}")}
_COMMA: Final = ord(",")
_QUOTE: Final = ord('"')
_LONGEST_ESCAPE: Final = len(r"\ud83d\ude00")


class Span(NamedTuple):
    """Bytes ``start … stop - 1`` of a body, with *items* elements of the list or object there."""

    start: int
    stop: int
    items: int


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a text holds, outside of its strings."""

    values: int = 0  # texts, lists and objects
    commas: int = 0


class LargeJson:
    """The JSON value at the start of *data*; what follows it is ignored.

    Args:
        max_inputs: Inputs of a request. A list of anything but numbers that is longer, and
            longer than `MAX_ITEMS`, is refused.
        max_depth: Levels of nesting.
        parse: Parses a short JSON text, leniently.

    Raises:
        MalformedBodyError: *data* is empty.
    """

    def __init__(self, data: Data, *, max_inputs: int, max_depth: int, parse: ParseSlice) -> None:
        self._data = data
        self._max_inputs = max_inputs
        self._max_depth = max_depth
        self._parse = parse
        self._counts = Counts()
        self._field = ""
        match = _SPACE.match(data)
        self._start = match.end() if match else 0
        if self._start == len(data):
            raise MalformedBodyError("missing request body")

    @property
    def is_object(self) -> bool:
        """Whether the value is an object."""
        return self._data[self._start] == ord("{")

    def sample(self) -> object:
        """A value of the same type, of a value that is not an object."""
        first = self._data[self._start]
        if first in b'["':
            return [] if first == ord("[") else ""
        return self._parse(bytes(self._data[self._start : self._start + SLICE]))

    def heads(self) -> dict[str, bytes]:
        """The fields of the object and the JSON text of each, of a large one the start."""
        return {
            name: bytes(self._data[start : min(stop, start + SLICE)])
            for name, start, stop in self._fields()
        }

    def parse_fields(self, known: Container[str]) -> dict[str, object]:
        """The fields of the object whose names are *known*.

        A long list of numbers in one of `ID_FIELDS` is an array, see `Numbers`.

        Raises:
            MalformedBodyError: The text is not JSON.
            TooManyInputsError: A list has too many elements.
            InvalidInputError: The text has too many values in all.
        """
        fields: dict[str, object] = {}
        for name, start, stop in self._fields():
            if name in known:
                self._field = name
                fields[name] = self._parse_value(start, stop, 1)
        return fields

    def _fields(self) -> Iterator[tuple[str, int, int]]:
        """Name, start and stop of each field of the object."""
        self._counts = Counts()
        spans, _ = self._split(self._start, self._counts)
        self._check_fields(sum(span.items for span in spans))
        for span in spans:
            yield from self._split_fields(span)

    def _split_fields(self, span: Span) -> Iterator[tuple[str, int, int]]:
        if span.items == 1:
            name, start = self._parse_key(span)
            yield name, start, span.stop
            return
        at = span.start
        for stop in self._find_commas(span) if span.items else ():
            name, start = self._parse_key(Span(at, stop, 1))
            yield name, start, stop
            at = stop + 1

    def _find_commas(self, span: Span) -> list[int]:
        """Where the elements of *span* end."""
        scan = _Scan(self._data, self._max_depth)
        places = scan.read(span.start, span.stop, Counts()).commas
        return [*places.tolist(), span.stop]

    def _parse_value(self, start: int, stop: int, level: int) -> object:
        """The value at ``start … stop - 1``, which may have spaces around it."""
        start, stop = self._strip(start, stop)
        first = self._data[start] if start < stop else 0
        if stop - start <= SLICE:
            [value] = self._parse_slice(start, stop, 1)
            return value
        if first not in (*_CLOSING, _QUOTE):
            raise _malformed(f"a number or word is too long, at byte {start}")
        if first == _QUOTE:
            return self._parse_text(start, stop)
        if level == MAX_LEVELS:
            raise _malformed(f"a large value is nested more than {MAX_LEVELS} levels deep")
        spans, end = self._split(start, Counts())
        if self._strip(end, stop)[0] != stop:
            raise _malformed(f"unexpected bytes after a value, at byte {end}")
        if first == ord("{"):
            return self._parse_object(spans, level)
        return self._parse_list(spans, level)

    def _parse_object(self, spans: list[Span], level: int) -> dict[str, object]:
        self._check_fields(sum(span.items for span in spans))
        # Large fields first: an error says which has too many elements, if one has.
        large: dict[Span, dict[str, object]] = {}
        for span in spans:
            if span.stop - span.start > SLICE:
                name, start = self._parse_key(span)
                large[span] = {name: self._parse_value(start, span.stop, level + 1)}
        self._check_values()
        fields: dict[str, object] = {}
        for span in spans:
            fields |= large[span] if span in large else self._parse_pairs(span)
        return fields

    def _parse_pairs(self, span: Span) -> dict[str, object]:
        fields = self._parse(b"{%b}" % bytes(self._data[span.start : span.stop]))
        if not isinstance(fields, dict) or (span.items and not fields):
            raise _malformed(f"a field is missing, at byte {span.start}")
        return fields

    def _parse_list(self, spans: list[Span], level: int) -> list[object] | Numbers:
        count = sum(span.items for span in spans)
        has_numbers = self._field in ID_FIELDS and self._begins_with_number(spans[0])
        if not has_numbers:
            self._check_items(count)
        self._check_values()
        if has_numbers:
            numbers = self._parse_numbers(spans, count)
            if numbers is not None:
                return numbers
            self._check_items(count)
        values: list[object] = []
        for span in spans:
            if span.stop - span.start <= SLICE:
                part = self._parse_slice(*span)
                values += map(to_numbers, part) if self._field in ID_FIELDS else part
            else:
                values.append(self._parse_value(span.start, span.stop, level + 1))
        return values

    def _parse_numbers(self, spans: list[Span], count: int) -> Numbers | None:
        """The elements of a list if all are token ids."""
        numbers = np.empty(count, np.int64)
        at = 0
        for span in spans:
            if span.stop - span.start > SLICE:
                return None
            part = to_numbers(self._parse_slice(*span), least=1)
            if not isinstance(part, np.ndarray) or part.dtype != np.int64:
                return None
            numbers[at : at + len(part)] = part
            at += len(part)
        return numbers

    def _parse_slice(self, start: int, stop: int, count: int) -> list[object]:
        """The *count* elements of a list in ``start … stop - 1``."""
        values = self._parse(b"[%b]" % bytes(self._data[start:stop]))
        if not isinstance(values, list) or len(values) != count:
            raise _malformed(f"a value is missing, at byte {start}")
        return values

    def _parse_text(self, start: int, stop: int) -> str:
        """The string at ``start … stop - 1``, its quotes included."""
        parts: list[str] = []
        at, end = start + 1, stop - 1
        while at < end:
            cut = _choose_cut(self._data, at, end)
            part = self._parse(b'"%b"' % bytes(self._data[at:cut]))
            if not isinstance(part, str):
                raise _malformed(f"not a string, at byte {at}")
            parts.append(part)
            at = cut
        return "".join(parts)

    def _parse_key(self, span: Span) -> tuple[str, int]:
        """The name of the field in *span*, and where its value starts."""
        match = _KEY.match(self._data, span.start, min(span.stop, span.start + SLICE))
        name = self._parse(match[1]) if match else None
        if match is None or not isinstance(name, str):
            raise _malformed(f"the name of a field is missing or too long, at byte {span.start}")
        return name, match.end()

    def _begins_with_number(self, span: Span) -> bool:
        start, stop = self._strip(span.start, span.stop)
        return start < stop and self._data[start] in b"-0123456789"

    def _check_items(self, count: int) -> None:
        if count > max(MAX_ITEMS, self._max_inputs):
            raise TooManyInputsError(count, limit=self._max_inputs, field=self._field or None)

    def _check_fields(self, count: int) -> None:
        if count > MAX_ITEMS:
            raise InvalidInputError(
                f"an object in the request body has {count} fields, the limit is {MAX_ITEMS}: "
                "leave fields out",
                limit=MAX_ITEMS,
            )

    def _check_values(self) -> None:
        counts = self._counts
        for count, limit, name in (
            (counts.values, MAX_VALUES, "texts, lists and objects"),
            (counts.commas, MAX_NUMBERS, "values"),
        ):
            if count > limit:
                raise InvalidInputError(
                    f"the request body has {count} {name}, the limit is {limit}: "
                    "send fewer inputs at a time",
                    limit=limit,
                    field=self._field,
                )

    def _split(self, start: int, counts: Counts) -> tuple[list[Span], int]:
        """Cut the list or object that begins at *start* into its elements.

        Returns:
            Runs of elements that fit in a slice, and larger elements alone; and where the list
            or object ends.
        """
        scan = _Scan(self._data, self._max_depth)
        spans: list[Span] = []
        at = start + 1  # where the next run starts
        for place in range(start + 1, len(self._data), SLICE):
            found = scan.read(place, min(place + SLICE, len(self._data)), counts)
            commas = found.commas
            if len(commas) and at < place:  # an element that began in an earlier slice
                spans.append(Span(at, int(commas[0]), 1))
                at = int(commas[0]) + 1
                commas = commas[1:]
            if len(commas):
                spans.append(Span(at, int(commas[-1]), len(commas)))
                at = int(commas[-1]) + 1
            if found.end is not None:
                self._check_closing(start, found.end)
                if spans or self._strip(at, found.end)[0] < found.end:
                    spans.append(Span(at, found.end, 1))
                return spans or [Span(at, at, 0)], found.end + 1
        raise _malformed("its end is missing")

    def _check_closing(self, start: int, end: int) -> None:
        if self._data[end] != _CLOSING[self._data[start]]:
            raise _malformed(f"the wrong bracket at byte {end}")

    def _strip(self, start: int, stop: int) -> tuple[int, int]:
        """*start* and *stop* without the spaces between them."""
        data = self._data
        while start < stop and data[start] in b" \t\r\n":
            start += 1
        while start < stop and data[stop - 1] in b" \t\r\n":
            stop -= 1
        return start, stop


def to_numbers(value: object, least: int = FEW_NUMBERS) -> object:
    """*value*, as an array if it is a list of at least *least* numbers."""
    if not isinstance(value, list) or len(value) < least:
        return value
    kinds = {*map(type, value)}
    if not kinds <= {int, float}:
        return value
    try:
        if kinds == {int}:
            return np.array(value, np.int64)
        numbers = np.array(value, np.float64)
    except OverflowError:
        return value
    with np.errstate(invalid="ignore"):  # of numbers that are larger than any int64
        whole = numbers.astype(np.int64)
    return whole if (whole == numbers).all() else numbers


class _Found(NamedTuple):
    """Where elements end in a slice, and where the list or object does, if it ends there."""

    commas: npt.NDArray[np.int64]
    end: int | None


class _Scan:
    """Read the inside of a list or object slice by slice: which bytes are not in a string."""

    def __init__(self, data: Data, max_depth: int) -> None:
        self._data = data
        self._max_depth = max_depth
        self._depth = 1
        self._in_string = False
        self._escaped = False  # the first byte of the next slice

    def read(self, start: int, stop: int, counts: Counts) -> _Found:
        """Read ``start … stop - 1``, and add what is there to *counts*."""
        text = self._hide_escapes(bytes(self._data[start:stop]))
        codes = np.frombuffer(text, np.uint8)
        quotes = codes == _QUOTE
        inside = (np.cumsum(quotes, dtype=np.uint8) & 1).astype(np.bool_) ^ self._in_string
        outside = ~inside
        # "[" and "{", "]" and "}" differ in one bit.
        opening = ((codes | 0x20) == ord("{")) & outside
        closing = ((codes | 0x20) == ord("}")) & outside
        depths = self._depth + np.cumsum(
            opening.view(np.int8) - closing.view(np.int8), dtype=np.int32
        )
        if depths.max(initial=0) > self._max_depth:
            raise _malformed(f"more than {self._max_depth} levels")
        commas = (codes == _COMMA) & outside
        ends = np.flatnonzero(depths == 0)
        end = int(ends[0]) if len(ends) else None
        counts.values += int(np.count_nonzero(quotes[:end])) // 2
        counts.values += int(np.count_nonzero(opening[:end]))
        counts.commas += int(np.count_nonzero(commas[:end]))
        places = np.flatnonzero((commas & (depths == 1))[:end])
        if len(depths):
            self._depth = int(depths[-1])
            self._in_string = bool(inside[-1])
        return _Found(places + start, None if end is None else start + end)

    def _hide_escapes(self, text: bytes) -> bytes:
        """Replace escaped quotes and backslashes, which have no meaning here."""
        if self._escaped:
            text = b"_" + text[1:]
        if b"\\" in text:
            text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._escaped = text.endswith(b"\\")
        return text


def _choose_cut(data: Data, start: int, end: int) -> int:
    """Where a string, of which ``start … end - 1`` is left, can be cut: in no character.

    An escaped surrogate pair is one character.
    """
    cut = start + SLICE
    if cut + _LONGEST_ESCAPE >= end:
        return end
    for _ in range(3):
        if data[cut] & 0xC0 == 0x80:  # it continues a character
            cut -= 1
    last = data.rfind(b"\\", cut - _LONGEST_ESCAPE, cut)
    if last < 0:
        return cut
    run = bytes(data[start : last + 1])
    if (len(run) - len(run.rstrip(b"\\"))) % 2 == 0:  # an escaped backslash
        return last + 1
    is_second = data[last + 1 : last + 3].lower() == b"ud" and data[last + 3] in b"cdefCDEF"
    return last + 6 if is_second else last


def _malformed(reason: str) -> MalformedBodyError:
    return MalformedBodyError(f"invalid JSON in request body: {reason}")
