"""The three kinds of vocabularies that can be built exactly, as models of `tokenizers`.

Control tokens and those of type unknown or unused are never part of a model: whatever a text
says, the model cannot give their ids. They have placeholders there, which hold a space: no word
that is looked up does. `ModelTokenizer` finds the first two in texts where it is asked to.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from embedd.tokenizers.failures import TokenizerError, named_failures
from embedd.tokenizers.pretokenizers import GPT2, PRETOKENIZERS
from embedd.tokenizers.vocabulary import TokenType, Vocabulary

WORD_START: Final = "\u2581"
MAX_WORD_CHARACTERS: Final = 100  # of BERT: a longer word is unknown

Assemble: TypeAlias = Callable[[], Tokenizer]


def prepare(vocabulary: Vocabulary) -> Assemble:
    """Build the model of *vocabulary*; the result makes tokenizers that share it.

    Raises:
        TokenizerError: The kind or the pre-tokenizer is not known, or the vocabulary cannot
            be built: llama.cpp's tokenizer is to be used.
    """
    builder = _BUILDERS.get(vocabulary.model)
    if builder is None:
        raise TokenizerError(
            f"tokenizers of kind {vocabulary.model!r} are llama.cpp's: only "
            f"{', '.join(_BUILDERS)} are built"
        )
    with named_failures(f"building the {vocabulary.model} tokenizer"):
        return builder(vocabulary)


def decides_lowercase(vocabulary: Vocabulary) -> bool:
    """Whether a WordPiece vocabulary lower-cases texts: as the file says, else as it looks.

    A cased vocabulary has many words with capitals, an uncased one has none that text could
    still hold.
    """
    if vocabulary.lowercase is not None:
        return vocabulary.lowercase
    words = [vocabulary.tokens[id_] for id_ in vocabulary.ids_of(TokenType.NORMAL)]
    return 100 * sum(word != word.lower() for word in words) < len(words)


def _prepare_wordpiece(vocabulary: Vocabulary) -> Assemble:
    if vocabulary.unk is None:
        raise TokenizerError("the WordPiece vocabulary has no token for unknown words")
    names = _name_tokens(vocabulary, _to_wordpiece)
    model = models.WordPiece(
        _to_ids(names),
        unk_token=names[vocabulary.unk],
        max_input_chars_per_word=MAX_WORD_CHARACTERS,
    )
    lowercase = decides_lowercase(vocabulary)
    strip = vocabulary.strip_accents
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=lowercase if strip is None else strip,
        lowercase=lowercase,
    )
    return lambda: _assemble(model, normalizer, pre_tokenizers.BertPreTokenizer())


def _to_wordpiece(token: str) -> str:
    """The token as BERT's own files have it: ``▁word`` is ``word``, ``ing`` is ``##ing``."""
    if len(token) > 1 and token.startswith(WORD_START):
        return token[1:]
    return f"##{token}"


def _prepare_unigram(vocabulary: Vocabulary) -> Assemble:
    if vocabulary.unk is None:
        raise TokenizerError("the unigram vocabulary has no token for unknown characters")
    names = _name_tokens(vocabulary, str)
    model = models.Unigram(
        list(zip(names, vocabulary.scores.tolist(), strict=True)),
        unk_id=vocabulary.unk,
        byte_fallback=bool((vocabulary.types == TokenType.BYTE).any()),
    )
    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    words: pre_tokenizers.PreTokenizer
    if has_separate_words(vocabulary):
        words = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(WORD_START, "always")]
        )
    else:
        steps.extend(_mark_spaces(vocabulary))
        words = pre_tokenizers.Metaspace(WORD_START, "never", split=False)
    return lambda: _assemble(model, normalizers.Sequence(steps), words)


def has_separate_words(vocabulary: Vocabulary) -> bool:
    """Whether a unigram vocabulary has no token that reaches over the end of a word.

    Then its words are looked at one by one, each with a space before it, as in the files of
    XLM-R and T5; else whole texts are, as SentencePiece does.
    """
    return (
        vocabulary.add_space_prefix
        and vocabulary.remove_extra_whitespaces
        and not any(
            WORD_START in token[1:] or any(map(str.isspace, token))
            for token, kind in zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True)
            if kind not in _HIDDEN
        )
    )


def _mark_spaces(vocabulary: Vocabulary) -> Iterator[normalizers.Normalizer]:
    """What SentencePiece does to the spaces of a text."""
    if vocabulary.remove_extra_whitespaces:
        yield normalizers.Replace(Regex(r"\A +| +\z"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if vocabulary.add_space_prefix:
        yield normalizers.Prepend(WORD_START)
    yield normalizers.Replace(" ", WORD_START)


def _prepare_byte_pairs(vocabulary: Vocabulary) -> Assemble:
    rules = PRETOKENIZERS.get(vocabulary.pre)
    if rules is None:
        raise TokenizerError(f"the pre-tokenizer {vocabulary.pre!r} is only llama.cpp's")
    if not vocabulary.merges:
        raise TokenizerError("the byte-pair vocabulary has no merges")
    model = models.BPE(
        _to_ids(_name_tokens(vocabulary, str)),
        [_to_pair(merge) for merge in vocabulary.merges],
        ignore_merges=rules.ignore_merges,
    )
    words: pre_tokenizers.PreTokenizer
    if rules.expressions == GPT2.expressions:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        words = pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(one), "isolated") for one in rules.expressions),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    normalizer = normalizers.NFC() if rules.nfc else None
    return lambda: _assemble(model, normalizer, words)


def _to_pair(merge: str) -> tuple[str, str]:
    """The two parts of a merge; the first is never empty, and may be a space."""
    at = merge.find(" ", 1)
    if at < 0:
        raise TokenizerError(f"the merge {merge!r:.80} has no two parts")
    return merge[:at], merge[at + 1 :]


def _assemble(
    model: models.Model,
    normalizer: normalizers.Normalizer | None,
    words: pre_tokenizers.PreTokenizer,
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    return tokenizer


def _name_tokens(vocabulary: Vocabulary, name: Callable[[str], str]) -> list[str]:
    """What each token is called in the model, placeholders included, by id."""
    return [
        f"\0 {id_}" if kind in _HIDDEN or not token else name(token)
        for id_, (token, kind) in enumerate(
            zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True)
        )
    ]


def _to_ids(names: list[str]) -> dict[str, int]:
    ids = {name: id_ for id_, name in enumerate(names)}
    if len(ids) < len(names):
        raise TokenizerError("two tokens of the vocabulary have the same name")
    return ids


_HIDDEN: Final = frozenset({TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED})
_BUILDERS: Final[Mapping[str, Callable[[Vocabulary], Assemble]]] = {
    "bert": _prepare_wordpiece,
    "t5": _prepare_unigram,
    "gpt2": _prepare_byte_pairs,
}
