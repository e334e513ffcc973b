"""Plain texts on which two tokenizers of one model must agree, odd ones that must not fail."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from embedd.types import TokenIds

_SENTENCES: Final = (
    "The quick brown fox jumps over the lazy dog near the bank.",
    "Why is the sky blue, and why does it turn red in the evening?",
    "Embeddings map texts to vectors; near vectors mean similar texts.",
    "In 1969 two people walked on the Moon for 2 hours and 31 minutes.",
    "Please send the invoice (no. 20-1734/B) to accounts@example.org by 5 pm.",
    "I've said it's fine, they'd agreed, we'll see: that's what you're paid for.",
    'for i in range(10): print(f"{i:>4} {values[i]!r}")  # a comment',
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    '<p class="note">Price: $3.50 &amp; up - 20% off!</p>',
    "Über den Wolken muß die Freiheit wohl grenzenlos sein.",
    "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens, je dîne.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, ¿no?",
    "Luís argüia à Júlia que brações, fé, chá, óxido, pôr, zângão eram palavras.",
    "Høj bly gom vandt fræk sexquiz på wc; Ærø, Åland og Øresund.",
    "Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa.",
)
_WORDS: Final = (
    "a", "I", "of", "the", "The", "THE", "water", "tokenization", "antidisestablishmentarianism",
    "e-mail", "don't", "rock'n'roll", "C++", "x=y", "3.14159", "1,000,000", "2026-11-26", "12:30",
    "NASA", "iPhone", "camelCase", "snake_case", "kebab-case", "https://example.org/a?b=c#d",
    "user@example.org", "#tag", "@name", "50%", "$100", "R&D", "and/or", "(sic)", "[1]", "{}",
    '"quoted"', "'single'", "...", "--", "!?", "café", "naïve", "Ångström", "façade", "señor",
    "Größe", "crème brûlée", "smörgåsbord", "Zürich", "São Paulo", "garçon",
)  # fmt: skip
_SPACED: Final = (
    "two  spaces", "three   spaces", "a line\nand another", "a paragraph\n\nand another",
    "a\ttab", "windows\r\nline ends",
)  # fmt: skip


def find_differences(ours: Sequence[TokenIds], theirs: Sequence[TokenIds]) -> list[int]:
    """Indices of the texts for which two tokenizers gave different ids."""
    return [
        index
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if not np.array_equal(one, other)
    ]


def _make_probe() -> Iterator[str]:
    yield from _SENTENCES
    yield from _WORDS
    yield from _SPACED
    yield from (chr(code) for code in range(0x21, 0x7F))
    # Of many lengths, up to some 1,500 characters
    for count in range(2, 30):
        yield " ".join(_SENTENCES[index % len(_SENTENCES)] for index in range(count))


# Some 200 texts in ASCII and Latin-1, without what is known to differ in llama.cpp: letters
# that fall apart into more than a letter and accents, long words, rare white space, and words
# of capitals that begin with one beyond ASCII (the expressions of GPT-4o and Tekken).
PROBE: Final = tuple(dict.fromkeys(_make_probe()))

# Characters of all scripts with control characters between them: a tokenizer that fails on one of
# them would fail requests, which no fault of theirs explains.
ODD: Final = (
    "".join(map(chr, range(0x3000))),
    "".join(chr(code) for code in range(0x3000, 0x110000, 97) if not 0xD800 <= code < 0xE000),
    " \0 \0a\0",
)
