"""Durations as people and Ollama's clients write them: ``5m``, ``1h30m``, ``-1``."""

import math
import re
from fractions import Fraction
from typing import Final

from embedd.errors import InvalidInputError

# Go's grammar (time.ParseDuration) and its longest value, 2⁶³ - 1 nanoseconds; the unit
# "d" is ours.
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
_MOST_NANOSECONDS: Final = 2**63 - 1
_LONGEST: Final = _MOST_NANOSECONDS / 1e9

_TERM: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>[^0-9.]*)")
_BARE: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
_GO_TYPES: Final = {
    bool: "bool",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    type(None): "<nil>",
}


def parse_keep_alive(value: object) -> float:
    """Seconds that a model stays in memory, `math.inf` for ever.

    Takes what a JSON field ``keep_alive`` holds: a number of seconds or a duration;
    anything negative, and the longest duration there is, means for ever.

    Raises:
        InvalidInputError: With the text that Ollama's clients know.
    """
    if isinstance(value, str):
        seconds = parse_duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Bounded before converting: an integer may be too large for a float.
        seconds = float(min(max(-1, value), _LONGEST))
    else:
        kind = _GO_TYPES.get(type(value), type(value).__name__)
        raise InvalidInputError(f"Unsupported type: '{kind}'")
    if seconds < 0 or seconds >= _LONGEST:
        return math.inf
    return abs(seconds)  # -0.0 is 0


def parse_duration(text: str) -> float:
    """Seconds, possibly negative; a number without a unit counts seconds.

    Raises:
        InvalidInputError: *text* is no duration, or is longer than 292 years.
    """
    if _BARE.fullmatch(text):
        nanoseconds = Fraction(text.rstrip(".")) * 10**9
    else:
        sign = -1 if text.startswith("-") else 1
        nanoseconds = sign * _sum_terms(text, text[1:] if text[:1] in ("-", "+") else text)
    if abs(nanoseconds) > _MOST_NANOSECONDS:
        raise _invalid(text)
    return float(nanoseconds / 10**9)


def _sum_terms(text: str, unsigned: str) -> Fraction:
    """Nanoseconds of ``1h30m``-like *unsigned*; *text* is named in errors."""
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
    """*text* in quotes as Go's package time writes it: other than ASCII as bytes."""
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
