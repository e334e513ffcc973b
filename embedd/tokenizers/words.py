"""The ids of words that were seen before, for short texts of WordPiece vocabularies.

A text is mostly words that other texts had too. Between two requests the library's tables leave the
processor's caches: a short text then takes it 40 µs and more, and looking up its words takes 5.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain
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
        self._known: dict[str, Sequence[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of *text*."""
        words = text.split(" ")
        rows = [*map(self._known.get, words)]
        if None in rows:
            new = self._learn([word for word, row in zip(words, rows, strict=True) if row is None])
            rows = [new.get(word, row) for word, row in zip(words, rows, strict=True)]
        return [*chain.from_iterable(row or () for row in rows)]

    def _learn(self, words: Sequence[str]) -> dict[str, Sequence[int]]:
        """Return the ids of each of *words*."""
        found: dict[str, Sequence[int]] = {}
        others = []
        for word in words:
            if word.isascii() and word.isalnum():
                found[word] = self._spell(word)
            else:
                others.append(word)
        if others:
            found |= self._split(others)
        if len(self._known) + len(found) > MAX_WORDS:
            self._known.clear()
        self._known.update({word: row for word, row in found.items() if len(word) <= LONGEST})
        return found

    def _split(self, words: Sequence[str]) -> dict[str, Sequence[int]]:
        """Return the ids of each of *words*, by one call of the library for all of them."""
        ids, starts = self._locate(" ".join(words))
        found: dict[str, Sequence[int]] = {}
        first = end = 0
        for word in words:
            end += len(word) + 1  # of the word and the space after it
            last = bisect_left(starts, end, first)
            found[word] = ids[first:last]
            first = last
        return found
