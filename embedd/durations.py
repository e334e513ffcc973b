"""Durations in the formats that Ollama accepts: ``5m``, ``1h30m``, ``-1``."""

import math
import re
from fractions import Fraction
from typing import Final

from embedd.errors import InvalidInputError

# The grammar of Go's time.ParseDuration and its longest value, 2⁶³ - 1 nanoseconds; only the
# unit "d" is embedd's own.
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5
    "μs": 10**3,  # U+03BC
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_MAX_NANOSECONDS: Final = 2**63 - 1
_MAX_SECONDS: Final = _MAX_NANOSECONDS / 1e9
_MAX_CHARACTERS: Final = 200  # no duration has more; Python converts no number of 4,301 digits

_TERM: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>[^0-9.]*)")
_BARE: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_GO_TYPES: Final = {
    bool: "bool",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    type(None): "<nil>",
}


def parse_keep_alive(value: object) -> float:
    """Return the seconds that a model stays in memory, `math.inf` for ever.

    Args:
        value: Of the JSON field ``keep_alive``: a number of seconds or a duration. Negative
            values and the longest possible duration mean for ever.

    Raises:
        InvalidInputError: *value* is neither; with Ollama's message.
    """
    if isinstance(value, str):
        seconds = parse_duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Limited before converting: an integer may be too large for a float.
        seconds = float(min(max(-1, value), _MAX_SECONDS))
    else:
        kind = _GO_TYPES.get(type(value), type(value).__name__)
        raise InvalidInputError(f"Unsupported type: '{kind}'")
    if seconds < 0 or seconds >= _MAX_SECONDS:
        return math.inf
    return abs(seconds)  # makes -0.0 0.0


def parse_duration(text: str) -> float:
    """Return seconds, possibly negative; a number without a unit is in seconds.

    Raises:
        InvalidInputError: *text* is not a duration, or longer than 292 years.
    """
    if len(text) > _MAX_CHARACTERS:
        raise _invalid(f"{text[:_MAX_CHARACTERS]}…")
    if _BARE.fullmatch(text):
        nanoseconds = Fraction(text.rstrip(".")) * 10**9
    else:
        sign = -1 if text.startswith("-") else 1
        nanoseconds = sign * _sum_terms(text, text[1:] if text[:1] in ("-", "+") else text)
    if abs(nanoseconds) > _MAX_NANOSECONDS:
        raise _invalid(text)
    return float(nanoseconds / 10**9)


def _sum_terms(text: str, unsigned: str) -> Fraction:
    """Return the nanoseconds of *unsigned*, like ``1h30m``; errors quote *text*."""
    total, position = Fraction(0), 0
    while position < len(unsigned) or position == 0:
        term = _TERM.match(unsigned, position)
        if term is None:
            raise _invalid(text)
        number, unit = term["number"], term["unit"]
        if not unit:
            raise InvalidInputError(f"time: missing unit in duration {_quote(text)}")
        if unit not in _NANOSECONDS:
            message = f"time: unknown unit {_quote(unit)} in duration {_quote(text)}"
            raise InvalidInputError(message)
        total += Fraction(f"0{number}0" if "." in number else number) * _NANOSECONDS[unit]
        position = term.end()
    return total


def _invalid(text: str) -> InvalidInputError:
    return InvalidInputError(f"time: invalid duration {_quote(text)}")


def _quote(text: str) -> str:
    """Quote *text* as Go's package time does: bytes that are not ASCII as hex."""
    quoted = []
    for byte in text.encode("utf-8", "surrogatepass"):
        character = chr(byte)
        if character in '"\\':
            quoted.append("\\" + character)
        elif " " <= character < "\x7f":
            quoted.append(character)
        else:
            quoted.append(f"\\x{byte:02x}")
    return f'"{"".join(quoted)}"'
