"""The ids of words that were seen before, for short texts of WordPiece vocabularies.

A text is mostly words that other texts had too. Between two requests the library's tables leave the
processor's caches: a short text then takes it 40 µs and more, and looking up its words takes 3.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

# Ids of a text, and where in it each of them begins.
Located: TypeAlias = tuple[Sequence[int], Sequence[int]]

MAX_WORDS: Final = 8192  # that are remembered, in some megabyte
LONGEST: Final = 32  # characters of a word that is remembered


class Words:
    """Finds the ids of texts by their words, and remembers those of new ones.

    A space ends a token whatever surrounds it, so that words can be looked up one by one. Safe to
    use from any thread.

    Args:
        locate: Returns the ids of a text, and where they begin.
        spell: Returns the ids of a word of ASCII letters and digits, in less time.
    """

    def __init__(
        self, locate: Callable[[str], Located], spell: Callable[[str], Sequence[int]]
    ) -> None:
        self._locate = locate
        self._spell = spell
        self._known: dict[str, bytes] = {}

    def encode(self, text: str) -> bytes:
        """Return the ids of *text*, each as an int32."""
        words = text.split(" ")
        known = self._known
        try:
            return b"".join([*map(known.__getitem__, words)])
        except KeyError:
            new = self._learn([word for word in words if word not in known])
        return b"".join([new[word] if word in new else known[word] for word in words])

    def _learn(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of each of *words*."""
        found: dict[str, bytes] = {}
        others = []
        for word in words:
            if word.isascii() and word.isalnum():
                found[word] = array("i", self._spell(word)).tobytes()
            else:
                others.append(word)
        if others:
            found |= self._split(others)
        if len(self._known) + len(found) > MAX_WORDS:
            self._known = {}  # others may be looking up words in those that are forgotten
        self._known.update({word: row for word, row in found.items() if len(word) <= LONGEST})
        return found

    def _split(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of each of *words*, by one call of the library for all of them."""
        ids, starts = self._locate(" ".join(words))
        found: dict[str, bytes] = {}
        first = end = 0
        for word in words:
            end += len(word) + 1  # of the word and the space after it
            last = bisect_left(starts, end, first)
            found[word] = array("i", ids[first:last]).tobytes()
            first = last
        return found
