"""Tiny vocabularies of every kind of tokenizer, as a GGUF has them."""

from collections.abc import Callable, Sequence

import gguf

from tests.tiny_models import END_OF_TEXT, TINY_VOCABULARY, TINY_WORDS, _add_wordpiece, _byte_pairs

WORDPIECE_SIZE = len(TINY_VOCABULARY)
UNIGRAM_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
UNIGRAM_TOKENS: tuple[str, ...] = (
    *UNIGRAM_SPECIAL,
    "\u2581",
    *(f"\u2581{word}" for word in TINY_WORDS),
    *"0123456789abcdefghijklmnopqrstuvwxyz.,:;!?-'\"()",
    "<mask>",
)
UNIGRAM_SIZE = len(UNIGRAM_TOKENS)
BYTE_PAIRS_SIZE = len(_byte_pairs()[0])
PIECES = (*"\u2581abcdefghijklmnopqrstuvwxyz", "\u2581t", "he", "\u2581the", "in", "an", "ing")
PIECES_SIZE = 3 + 256 + len(PIECES)


def add_wordpiece(writer: gguf.GGUFWriter) -> None:
    """Of `WORDPIECE_SIZE` tokens, as BERT has it."""
    _add_wordpiece(writer, TINY_VOCABULARY)


def add_unigram(writer: gguf.GGUFWriter) -> None:
    """Of `UNIGRAM_SIZE` tokens, as XLM-RoBERTa has it."""
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    types = [normal] * UNIGRAM_SIZE
    types[:4] = [control, control, control, gguf.TokenType.UNKNOWN]
    types[-1] = control
    _add_scored(writer, UNIGRAM_TOKENS, types)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_sep_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_mask_token_id(UNIGRAM_SIZE - 1)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_token_type_count(1)


def add_t5_unigram(writer: gguf.GGUFWriter) -> None:
    """Of `UNIGRAM_SIZE` tokens, as T5 has it: texts end with ``</s>`` and begin with nothing."""
    tokens = ("<pad>", "</s>", "<unk>", "<s>", *UNIGRAM_TOKENS[4:])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    types = [normal] * UNIGRAM_SIZE
    types[:4] = [control, control, gguf.TokenType.UNKNOWN, control]
    _add_scored(writer, tokens, types)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)


def byte_pairs(
    pre: str, *, frame: bool = False, end: bool = False, types: int = 0
) -> Callable[[gguf.GGUFWriter], None]:
    """A byte-level vocabulary of `BYTE_PAIRS_SIZE` tokens, with the pre-tokenizer *pre*.

    *frame* puts the last token before and after every text, *end* only after it; *types* is the
    number of token types.
    """

    def add(writer: gguf.GGUFWriter) -> None:
        tokens, merges = _byte_pairs()
        last = tokens.index(END_OF_TEXT)
        types_of = [gguf.TokenType.NORMAL] * len(tokens)
        types_of[last] = gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types_of)
        writer.add_token_merges(merges)
        if types:
            writer.add_token_type_count(types)
        for add_id in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
            add_id(last)
        writer.add_sep_token_id(last)
        writer.add_unk_token_id(last)
        writer.add_add_bos_token(frame)
        writer.add_add_eos_token(frame or end)
        writer.add_add_sep_token(frame)

    return add


def add_pieces(writer: gguf.GGUFWriter) -> None:
    """Of `PIECES_SIZE` tokens with bytes, as Llama and Gemma have it: texts are framed."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(PIECES)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([0.0] * 259 + [float(-at) for at in range(len(PIECES))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_space_prefix(False)


def _add_scored(
    writer: gguf.GGUFWriter, tokens: Sequence[str], types: Sequence[gguf.TokenType]
) -> None:
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if len(token) > 2 else -5.0 for token in tokens])
    writer.add_token_types(types)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
