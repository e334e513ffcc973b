"""Which columns are the text, the id, and carried along."""

from typing import Any

import pytest

from embedd.bulk.columns import Column, find_misfit, infer_columns, select
from embedd.bulk.records import Fault
from embedd.errors import InvalidInputError


def columns(*names: str, kind: str = "string") -> list[Column]:
    return [Column(name=name, type=kind) for name in names]


def chosen(found: list[Column], **options: Any) -> Any:
    return select(found, **{"text": None, "id_": None, "keep": "none"} | options)


def test_the_text_is_the_column_of_that_name_or_the_only_one_of_texts() -> None:
    assert chosen(columns("a", "text")).text_columns == ["text"]
    assert chosen([*columns("body"), *columns("n", kind="int64")]).text_columns == ["body"]
    with pytest.raises(InvalidInputError, match="--text: the columns are a, b"):
        chosen(columns("a", "b"))


def test_a_template_joins_columns_and_reads_escapes() -> None:
    selection = chosen(columns("a", "b"), text=r"{a}\n\t{{{b}}}!")
    assert selection.make_text({"a": "one", "b": 2}) == "one\n\t{2}!"
    assert selection.make_text({"a": None, "b": "x"}) == "\n\t{x}!"
    assert isinstance(selection.make_text({"a": None}), Fault)
    assert isinstance(selection.make_text({"a": True}), Fault)


@pytest.mark.parametrize("text", ["{{a}}", "a}} {{b"])
def test_a_template_without_a_column_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="names no column"):
        chosen(columns("a", "b"), text=text)


def test_a_column_may_have_braces_in_its_name() -> None:
    assert chosen(columns("{a}"), text="{a}").text_columns == ["{a}"]


def test_columns_are_carried_along_in_order_the_id_first() -> None:
    found = columns("text", "a", "b")
    names = [one.name for one in chosen(found, id_="b", keep="all").keep]
    assert names == ["b", "text", "a"]
    assert [one.name for one in chosen(found, keep="a, b").keep] == ["a", "b"]
    assert chosen(found).keep == ()


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (("text", "embedding"), {"keep": "all"}, "'embedding' of its own"),
        (("text", "row"), {"keep": "all"}, "or --id row"),
        (("text", "start"), {"keep": "all", "reserved": ("chunk", "start", "end")}, "'start'"),
        (("text",), {"id_": "key"}, "no column 'key'"),
        (("text",), {"keep": "a"}, "no column 'a'"),
    ],
)
def test_columns_that_cannot_be_carried_along_are_refused(
    found: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        chosen(columns(*found), **options)


def test_the_type_of_a_column_holds_all_values_of_the_sample() -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": True, "c": "x", "d": None, "e": 1, "f": [1], "g": 1, "h": 1 << 70},
        {"a": 2.5, "b": False, "c": None, "d": None, "e": "x", "f": None, "g": 2},
    ]
    kinds = {column.name: column.type for column in infer_columns(rows)}
    assert kinds == {
        "a": "float64",
        "b": "bool",
        "c": "string",
        "d": "null",
        "e": "json",
        "f": "json",
        "g": "int64",
        "h": "json",
    }
    assert all(find_misfit(row, infer_columns(rows)) is None for row in rows)


@pytest.mark.parametrize("value", ["x", 1.5, True, 1 << 63, [1]])
def test_a_value_of_another_type_does_not_fit(value: object) -> None:
    found = find_misfit({"a": value}, columns("a", kind="int64"))
    assert found is not None
    assert "'a'" in found


NAMES = ("text", "last, first", "age", 'the "best"', "all", " padded", '"a"', "a")


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ("age, text", ["age", "text"]),
        ("age,text,", ["age", "text"]),
        ('"last, first"', ["last, first"]),
        ('age, "last, first",text', ["age", "last, first", "text"]),
        ('"the ""best""","last, first"', ['the "best"', "last, first"]),
        ('the "best"', ['the "best"']),
        ('"a"', ['"a"']),  # what is a column without reading quotes is that one
        ('"all"', ["all"]),
        ('" padded",age', [" padded", "age"]),
        ('"age" ,text', ["age", "text"]),
    ],
)
def test_names_of_kept_columns_may_have_commas_in_quotes(keep: str, names: list[str]) -> None:
    columns = [Column(name=name, type="string") for name in NAMES]
    found = select(columns, text="text", id_=None, keep=keep)
    assert [column.name for column in found.keep] == names


def test_an_unknown_name_is_refused_with_names_as_they_can_be_written() -> None:
    columns = [Column(name=name, type="string") for name in ("last, first", 'a "b"', "age")]
    with pytest.raises(InvalidInputError) as caught:
        select(columns, text="age", id_=None, keep="last, first")
    assert str(caught.value) == (
        'no column \'last\': the columns are "last, first", "a ""b""", age'
    )
    with pytest.raises(InvalidInputError, match=r"--keep .* is not valid: new-line character"):
        select(columns, text="age", id_=None, keep='age\nage,"last, first"')
