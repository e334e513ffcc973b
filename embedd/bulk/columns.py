"""Which columns of the inputs are the text, which the id, and which are carried along."""

import csv
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from embedd.bulk.records import Fault
from embedd.errors import InvalidInputError

ROW: Final = "row"  # the id of inputs without one
TEXT: Final = "text"
VECTOR: Final = "embedding"
CHUNK: Final = ("chunk", "start", "end")
ALL, NONE = "all", "none"
SEPARATORS: Final = set(",;|\t")  # that are seldom part of a name

# Types of columns. Others, which only tables have, are `ARROW` and a serialised schema. `NULL` is
# that of columns without a value so far; an output has `JSON` for it.
BOOL, INT, FLOAT, STRING, JSON, NULL = "bool", "int64", "float64", "string", "json", "null"
ARROW: Final = "arrow:"
_SIMPLE: Final = {bool: BOOL, int: INT, float: FLOAT, str: STRING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that is carried along; *type* is one of the constants above."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a template: a literal text, and a column whose value follows, if any."""

    literal: str
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is made of the columns of the inputs.

    Args:
        text: The template of the text.
        id: The column that names rows; None: their number.
        keep: Columns that are carried along, the id first if there is one.
    """

    text: tuple[Piece, ...]
    id: str | None = None
    keep: tuple[Column, ...] = ()

    @property
    def text_columns(self) -> list[str]:
        """The columns of which the text is made."""
        return [piece.column for piece in self.text if piece.column is not None]

    @property
    def columns(self) -> list[str]:
        """All columns that must be read, each once."""
        return list(dict.fromkeys([*self.text_columns, *(one.name for one in self.keep)]))

    def make_text(self, values: Mapping[str, Any]) -> str | Fault:
        """Return the text of a row; a null in a template of several columns is an empty text."""
        parts: list[str] = []
        has_value = False
        for piece in self.text:
            parts.append(piece.literal)
            if piece.column is None:
                continue
            value = values.get(piece.column)
            if value is None:
                continue
            has_value = True
            text = _to_text(value, piece.column)
            if isinstance(text, Fault):
                return text
            parts.append(text)
        if not has_value:
            return Fault(f"the text is null (column {', '.join(self.text_columns)})")
        return "".join(parts)


def select(
    columns: Sequence[Column],
    *,
    text: str | None,
    id_: str | None,
    keep: str,
    reserved: Iterable[str] = (),
) -> Selection:
    """Return what options mean for inputs with *columns*.

    Args:
        text: A column, or a template with columns in braces; None is the column ``text``, else
            the only one with texts.
        keep: ``all``, ``none``, or names with commas between them; one that has a comma is in
            double quotes, as in CSV.
        reserved: Names of columns that the output has besides.

    Raises:
        InvalidInputError: A column does not exist, is ambiguous, or has a reserved name.
    """
    by_name = {column.name: column for column in columns}
    pieces = _parse_template(choose_text(columns) if text is None else text, by_name)
    wanted = [] if id_ is None else [id_]
    if keep == ALL:
        wanted += by_name
    elif keep != NONE:
        wanted += _split_names(keep, by_name)
    for name in [*(one.column for one in pieces if one.column is not None), *wanted]:
        if name not in by_name:
            raise _unknown(name, by_name)
    names = list(dict.fromkeys(wanted))
    taken = {VECTOR, *reserved, *([ROW] if id_ is None else [])}
    if both := [name for name in names if name in taken]:
        raise InvalidInputError(
            f"the output has a column {both[0]!r} of its own: name others with --keep"
            + (f", or --id {ROW}" if both[0] == ROW else "")
        )
    kept = (by_name[name] for name in names)
    return Selection(
        text=pieces,
        id=id_,
        keep=tuple(replace(one, type=JSON) if one.type == NULL else one for one in kept),
    )


def infer_columns(rows: Iterable[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of *rows* of JSON, each of a type that holds all of its values.

    One without values is `NULL`.
    """
    types: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            before = types.get(name)
            types[name] = _join_types(before, value)
    return [Column(name=name, type=kind or NULL) for name, kind in types.items()]


def find_misfit(values: Mapping[str, Any], columns: Iterable[Column]) -> Fault | None:
    """Return why a row cannot be carried along in columns of these types, or None if it can.

    Texts hold every value, as JSON if it is not a text.
    """
    for column in columns:
        value = values.get(column.name)
        if value is None or column.type in (JSON, STRING):
            continue
        kind = _SIMPLE.get(type(value), JSON)
        if column.type.startswith(ARROW):
            from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

            if tables.holds(column.type, value):
                continue
            return _misfit(column.name, kind, tables.show_type(column.type))
        fits = kind == column.type or (kind == INT and column.type == FLOAT)
        if not fits or (kind == INT and not -(1 << 63) <= value < 1 << 63):
            return _misfit(column.name, kind, column.type)
    return None


def _misfit(name: str, kind: str, before: str) -> Fault:
    return Fault(
        f"column {name!r} is {kind} here and {before} before: leave it out with --keep, or write "
        ".jsonl, which has no types"
    )


def choose_text(columns: Sequence[Column]) -> str:
    """Return the column of the text where no option names it.

    Raises:
        InvalidInputError: Several may be it, or none.
    """
    names = [column.name for column in columns]
    if TEXT in names:
        return TEXT
    if len(names) == 1 and SEPARATORS & set(names[0]):
        raise InvalidInputError(
            f"the only column is {names[0]!r}: if that is its name, give it to --text; else convert"
            " the file, a csv has commas between its fields and a tsv tabs"
        )
    texts = [column.name for column in columns if column.type == STRING]
    if len(texts) == 1:
        return texts[0]
    raise InvalidInputError(
        f"which column is the text? Name it with --text: the columns are {_show_names(names)}"
    )


def _parse_template(text: str, columns: Mapping[str, Column]) -> tuple[Piece, ...]:
    if text in columns or "{" not in text:
        return (Piece(literal="", column=text),)
    try:
        parsed = list(string.Formatter().parse(text.replace("\\n", "\n").replace("\\t", "\t")))
    except ValueError as error:
        raise InvalidInputError(f"the template {text!r} is not valid: {error}") from error
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise InvalidInputError(f"the template {text!r} may have names of columns in braces only")
    if not any(name for _, name, _, _ in parsed):
        raise InvalidInputError(f"the template {text!r} names no column: write it as {{column}}")
    return tuple(Piece(literal=literal, column=name) for literal, name, _, _ in parsed)


def _split_names(keep: str, columns: Mapping[str, Column]) -> list[str]:
    """Return the names in *keep*; quotes are part of them if columns have such names."""
    names = [name.strip() for name in keep.split(",") if name.strip()]
    if '"' in keep and not all(name in columns for name in names):
        try:
            [fields] = csv.reader([keep], skipinitialspace=True)
        except csv.Error as error:
            raise InvalidInputError(f"--keep {keep!r} is not valid: {error}") from error
        names = [name if name in columns else name.strip() for name in fields if name.strip()]
    return names


def _unknown(name: str, columns: Iterable[str]) -> InvalidInputError:
    return InvalidInputError(f"no column {name!r}: the columns are {_show_names(columns)}")


def _show_names(columns: Iterable[str]) -> str:
    """Return names with commas between them, as *keep* of `select` has them."""
    return ", ".join(_quote(name) if {",", '"'} & set(name) else name for name in columns)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _join_types(before: str | None, value: object) -> str:
    if value is None:
        return before or ""
    kind = _SIMPLE.get(type(value), JSON)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        kind = JSON
    if not before or before == kind:
        return kind
    return FLOAT if {before, kind} == {INT, FLOAT} else JSON


def _to_text(value: object, column: str) -> str | Fault:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return Fault(f"column {column!r} is not a text")
