"""The columns of several inputs together: one type each, null where an input lacks it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from embedd.bulk.columns import ARROW, FLOAT, INT, JSON, NULL, STRING, Column
from embedd.bulk.reading import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """All columns of some inputs, in the order in which they are met.

    Args:
        conflicts: Why a column of this name has no type that holds all of its values.
    """

    columns: tuple[Column, ...]
    conflicts: Mapping[str, str]


def join_columns(heads: Iterable[Head]) -> Union:
    """Return the columns of inputs together, see `join_types`."""
    types: dict[str, str] = {}
    files: dict[str, str] = {}  # with the first value of the type
    conflicts: dict[str, str] = {}
    seen: set[tuple[Column, ...]] = set()
    for head in heads:
        if head.columns in seen:
            continue
        seen.add(head.columns)
        for name, kind in ((one.name, one.type) for one in head.columns):
            before, file = types.setdefault(name, NULL), head.source.path
            joined = join_types(before, kind)
            if joined is None:
                conflicts.setdefault(
                    name,
                    f"column {name!r} is {_show(before)} in {files[name]} and {_show(kind)} in "
                    f"{file}, which no column holds together: name others with --keep, or give "
                    "one of the files to a command of its own",
                )
                continue
            types[name] = joined
            if before == NULL:
                files[name] = file
    columns = tuple(Column(name=name, type=kind) for name, kind in types.items())
    return Union(columns=columns, conflicts=conflicts)


def join_types(one: str, other: str) -> str | None:
    """Return the type of a column with values of both types.

    Numbers are ``float64`` if some are, values next to ``json`` are JSON, and others of two types
    are texts. None if no type holds both.
    """
    if one == other or NULL in (one, other):
        return other if one == NULL else one
    if {one, other} == {INT, FLOAT}:
        return FLOAT
    if JSON in (one, other):
        return JSON
    if one.startswith(ARROW) or other.startswith(ARROW):
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        return tables.join_types(one, other)
    return STRING


def _show(kind: str) -> str:
    if not kind.startswith(ARROW):
        return kind
    from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

    return tables.show_type(kind)
