"""Fields of requests for pictures: sizes, seeds, formats, synonyms, and what has no effect."""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.images import ImageFormat, PaintRequest
from embedd.server.dialects.base import BODIES
from embedd.server.dialects.common.fields import choose_word
from embedd.server.http.bodies import Body, decode_plainly, raw_fields

NO_EDITING: Final = "image-to-image is not supported: send a prompt without a picture"
RANDOM: Final = -1  # the seed by which clients ask for any
SEEDS: Final = 1 << 32
MAX_IGNORED: Final = 200  # bytes of `X-Embedd-Ignored`
# Names of formats by which clients ask → the format.
FORMATS: Final[Mapping[str, ImageFormat]] = {
    **{one.value: one for one in ImageFormat},
    "jpg": ImageFormat.JPEG,
}
MEDIA: Final[Mapping[ImageFormat, str]] = {one: f"image/{one.value}" for one in ImageFormat}

_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_Value = TypeVar("_Value")


async def read_body(request: web.Request, kind: type[Body]) -> tuple[Body, str]:
    """Read and decode the body; its bytes are free again when this returns.

    Returns:
        The body, and the names of its fields that are not of *kind*, as a header.

    Raises:
        EmbeddError: The body is too large, or cannot be decoded.
    """
    async with request.app[BODIES].read(request) as data:
        return await request.app[BODIES].decode(
            data,
            lambda: (decode_plainly(data, kind), find_ignored(raw_fields(data), kind)),
        )


def find_ignored(fields: Iterable[str], kind: type[msgspec.Struct]) -> str:
    """The names of *fields* that *kind* does not have, as the value of a header.

    They come from the client: only ASCII letters, digits and ``._-`` are kept.
    """
    known = {one.encode_name for one in msgspec.structs.fields(kind)}
    names = (re.sub(r"[^A-Za-z0-9_.-]", "?", name) for name in fields if name not in known)
    return ", ".join(names)[:MAX_IGNORED]


def parse_size(size: str | None, field: str = "size") -> tuple[int | None, int | None]:
    """Width and height of ``512x512``; None is the model's own, as ``auto`` and null say.

    Raises:
        InvalidInputError: The text is neither.
    """
    if size is None or size.strip().lower() == "auto":
        return None, None
    match = _SIZE.fullmatch(size.strip().lower())
    if match is None:
        shown = size[:40]
        raise InvalidInputError(
            f'{field} is "{shown}", it must be width and height in pixels, such as "512x512", '
            'or "auto"',
            field=field,
        )
    return int(match[1]), int(match[2])


def parse_seed(seed: int | None) -> int | None:
    """The seed; None, to be drawn, if it is null or -1."""
    return None if seed == RANDOM else seed


def with_seed(wanted: PaintRequest) -> PaintRequest:
    """*wanted* with a seed, drawn if it has none: the headers of a stream need it at once."""
    return wanted if wanted.seed is not None else replace(wanted, seed=secrets.randbelow(SEEDS))


def parse_format(word: str | None, field: str = "output_format") -> ImageFormat:
    """The format that *word* names; PNG if it is null.

    Raises:
        InvalidInputError: The format is unknown.
    """
    return ImageFormat.PNG if word is None else FORMATS[choose_word(field, word, FORMATS)]


def choose_one(**named: _Value | None) -> _Value | None:
    """The value of several names of one field; None if none is given.

    Raises:
        InvalidInputError: Two of them differ.
    """
    given = {name: value for name, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        first, second, *_ = given
        raise InvalidInputError(f"{first} and {second} conflict: send one of them", field=second)
    return next(iter(given.values()), None)


def refuse_editing(**pictures: Any) -> None:
    """Refuse a request that brings a picture.

    Raises:
        InvalidInputError: One of the fields has a value.
    """
    for name, value in pictures.items():
        if value is not None and value not in ("", []):
            raise InvalidInputError(NO_EDITING, field=name)


@contextmanager
def rename_fields(names: Mapping[str, str]) -> Iterator[None]:
    """Name fields in errors as the client does: the painter's name → the client's."""
    try:
        yield
    except InvalidInputError as error:
        name = names.get(error.field or "")
        if name is None or error.field is None:
            raise
        text = str(error)
        if text.startswith(f"{error.field} "):
            text = f"{name}{text[len(error.field) :]}"
        raise type(error)(text, limit=error.limit, field=name) from None
