"""Lists in pages, as OpenAI's API has them."""

from collections.abc import Sequence
from typing import TypeVar

from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.server.batches.records import Batch, StoredFile, by_age

R = TypeVar("R", StoredFile, Batch)


def take_page(
    request: web.Request, records: Sequence[R], *, limit: int, most: int
) -> tuple[list[R], bool]:
    """Return the records of the page that the query asks for, and whether there are more.

    Args:
        records: The latest come first unless the query has ``order=asc``.
        limit: Records of a page by default.
        most: Records of a page at most.

    Raises:
        InvalidInputError: A parameter is not valid.
    """
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidInputError(f"order must be asc or desc, got {order[:40]!r}", field="order")
    ordered = sorted(records, key=by_age, reverse=order == "desc")
    text = request.query.get("limit", str(limit))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidInputError(f"limit must be 1 to {most}, got {text[:40]!r}", field="limit")
    start = 0
    if after := request.query.get("after"):
        ids = [one.id for one in ordered]
        if after not in ids:
            raise InvalidInputError(f"after is not in the list: {after[:80]!r}", field="after")
        start = ids.index(after) + 1
    page = ordered[start : start + int(text)]
    return page, start + len(page) < len(ordered)
