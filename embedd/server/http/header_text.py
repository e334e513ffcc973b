"""Texts in headers: names of models and fields come from clients, with any characters."""

import re
from typing import Final

_UNSAFE: Final = re.compile(r"[^ -~]")


def to_header_text(text: str) -> str:
    """Return *text* with all that is not printable ASCII escaped, line ends above all."""
    if not _UNSAFE.search(text):
        return text
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)
