"""Fields that several dialects have: model, truncation, dimensions, keep_alive, formats."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from embedd.durations import parse_keep_alive
from embedd.errors import InvalidInputError
from embedd.types import DType, Encoding, Truncate, VectorFormat

CUTS: Final = {"end": Truncate.END, "start": Truncate.START, "none": Truncate.ERROR}
PARTS: Final = {**CUTS, "middle": Truncate.MIDDLE}
ENCODINGS: Final = {"float": Encoding.LIST, "base64": Encoding.BASE64}
DTYPES: Final = {dtype.value: dtype for dtype in DType}
BASE64: Final = "base64"
AS_MANY_AS_FIT: Final = -1


def choose_word(field: str, value: str, words: Iterable[str]) -> str:
    """Return *value* in lower case, which is one of *words*.

    Raises:
        InvalidInputError: It is not one of *words*; the message has the value as sent.
    """
    words = list(words)
    if value.lower() in words:
        return value.lower()
    raise InvalidInputError(
        f"Invalid value for '{field}' = {value}. Supported values: {words}.", field=field
    )


def require_model(model: str | None, default: str | None) -> str:
    """Return the name of the model, which may not be valid or exist.

    Args:
        default: The operator's default for requests that name none.

    Raises:
        InvalidInputError: It is missing and has no default.
    """
    if model and model.strip():
        return model
    if default is None:
        raise InvalidInputError("you must provide a model parameter", field="model")
    return default


def parse_truncate(
    *,
    truncate: bool | str | None,
    truncation: bool | None = None,
    words: Mapping[str, Truncate] = CUTS,
) -> Truncate:
    """Return the part that is removed; *truncation* is Voyage's name for a plain yes or no.

    Args:
        words: What *truncate* may say besides yes and no.

    Raises:
        InvalidInputError: The value is unknown, or the fields conflict.
    """
    cut = None if truncation is None else (Truncate.END if truncation else Truncate.ERROR)
    if truncate is None:
        return cut or Truncate.END
    if isinstance(truncate, str):
        chosen = words[choose_word("truncate", truncate, words)]
    else:
        chosen = Truncate.END if truncate else Truncate.ERROR
    if cut is not None and (cut is Truncate.ERROR) is not (chosen is Truncate.ERROR):
        raise InvalidInputError("truncate and truncation conflict", field="truncate")
    return chosen


def parse_max_tokens(number: int | None, truncate: Truncate) -> int | None:
    """Return vLLM's ``truncate_prompt_tokens``, most tokens of a sequence; None is the model's.

    Raises:
        InvalidInputError: It is not a length, or nothing may be cut.
    """
    if number is None:
        return None
    field = "truncate_prompt_tokens"
    if number != AS_MANY_AS_FIT and number < 1:
        raise InvalidInputError(
            f"{field} must be at least 1, or {AS_MANY_AS_FIT} for as many as the model takes, "
            f"got {number}",
            field=field,
        )
    if truncate is Truncate.ERROR:
        raise InvalidInputError(f"truncate and {field} conflict", field=field)
    return None if number == AS_MANY_AS_FIT else number


def parse_dimensions(dimensions: int | None, output_dimension: int | None = None) -> int | None:
    """Return the number that comes under either name; the model may have fewer.

    Raises:
        InvalidInputError: Both are given and differ.
    """
    if dimensions is None or output_dimension in (None, dimensions):
        return output_dimension if dimensions is None else dimensions
    raise InvalidInputError("dimensions and output_dimension conflict", field="dimensions")


def parse_optional_keep_alive(value: object) -> float | None:
    """Return seconds; None keeps the value that the model has.

    Raises:
        InvalidInputError: The value is not a duration.
    """
    return None if value is None else parse_keep_alive(value)


def parse_formats(
    *,
    encoding_format: str | None = None,
    output_dtype: str | None = None,
    embedding_type: str | Sequence[str] | None = None,
) -> tuple[VectorFormat, ...]:
    """Return the formats of every vector: one, or one for each name in *embedding_type*.

    Raises:
        InvalidInputError: A value is unknown, or two fields name different types.
    """
    encoding = Encoding.LIST
    if encoding_format is not None:
        encoding = ENCODINGS[choose_word("encoding_format", encoding_format, ENCODINGS)]
    dtype = None
    if output_dtype is not None:
        dtype = DTYPES[choose_word("output_dtype", output_dtype, DTYPES)]
    types = [embedding_type] if isinstance(embedding_type, str) else embedding_type or []
    names = parse_type_names("embedding_type", types)
    if dtype is not None and not {*names} <= {BASE64, dtype}:
        raise InvalidInputError(
            "output_dtype and embedding_type name different types", field="output_dtype"
        )
    if len(names) > 1:
        return tuple(make_format(name, encoding) for name in names)
    if names == [BASE64]:
        encoding = Encoding.BASE64
    elif names:
        dtype = DTYPES[names[0]]
    return (VectorFormat(dtype=dtype or DType.FLOAT, encoding=encoding),)


def parse_type_names(field: str, names: Iterable[str]) -> list[str]:
    """Return names of types and ``base64`` in lower case and in order, without duplicates.

    Raises:
        InvalidInputError: A name is unknown.
    """
    return list(dict.fromkeys(choose_word(field, name, (*DTYPES, BASE64)) for name in names))


def make_format(name: str, encoding: Encoding = Encoding.LIST) -> VectorFormat:
    """Return the format of the type *name*; ``base64`` is the bytes of float."""
    if name == BASE64:
        return VectorFormat(key=name, dtype=DType.FLOAT, encoding=Encoding.BASE64)
    return VectorFormat(key=name, dtype=DTYPES[name], encoding=encoding)
