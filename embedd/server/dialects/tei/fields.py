"""Fields that several of TEI's requests have."""

from typing import Final

import msgspec

from embedd.server.dialects.common.fields import choose_word
from embedd.types import Truncate

DIRECTIONS: Final = {"right": Truncate.END, "left": Truncate.START}


class Parameters(msgspec.Struct):
    """How inputs are cut, and the prompt before each."""

    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None


def parse_cut(*, truncate: bool | None, direction: str | None) -> Truncate:
    """Which end of an over-long input is cut; absent means cutting.

    Raises:
        InvalidInputError: *direction* is unknown.
    """
    word = choose_word("truncation_direction", direction or "right", DIRECTIONS)
    return Truncate.ERROR if truncate is False else DIRECTIONS[word]
