r"""How byte-level BPE tokenizers cut a text into words: a row for each ``tokenizer.ggml.pre``.

A GGUF names its pre-tokenizer instead of carrying its expression. The names are those that
`llama_vocab::impl::load` of llama.cpp (src/llama-vocab.cpp) knows; the expressions are those of
the ``tokenizer.json`` of the checkpoint that the name stands for
(convert_hf_to_gguf_update.py lists which), where llama.cpp's are rewritten because its engine
lacks ``(?i:…)`` and unions of categories. Only what could be compared with a public source is
listed: a GGUF with another name is tokenized by llama.cpp.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_EDGE: Final = r"[^\r\n\p{L}\p{N}]?"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """A way to cut texts into words before byte pairs are merged.

    Args:
        expressions: Each cuts what the ones before it left: its matches and what lies
            between them become words.
        nfc: Whether texts are brought to Unicode's form C first.
        ignore_merges: Whether a word that is a token is taken whole, whatever its merges.
        add_bos: Whether BOS is put before a text where the GGUF does not say.
        add_sep: Whether a pair has one more separator where the GGUF does not say.
    """

    expressions: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False


# Built into `tokenizers` as ByteLevel(use_regex=True): openai/gpt-2, src/encoder.py.
GPT2: Final = PreTokenizer(
    expressions=(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)
)
# FacebookAI/roberta-base: transformers, RobertaConverter.
_ROBERTA: Final = replace(GPT2, add_sep=True)
# bigcode/starcoder2: Sequence(Digits(individual_digits=True), ByteLevel()).
_DIGITS: Final = replace(GPT2, expressions=(r"\p{N}", *GPT2.expressions))
# meta-llama/Meta-Llama-3-8B: quoted in llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_LLAMA3.
_LLAMA3: Final = PreTokenizer(
    expressions=(rf"{_CONTRACTIONS}|{_EDGE}\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",),
    ignore_merges=True,
    add_bos=True,
)
# Qwen/Qwen1.5-7B: transformers, Qwen2Converter (expression and NFC).
_QWEN2: Final = PreTokenizer(
    expressions=(rf"{_CONTRACTIONS}|{_EDGE}\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_SPACES}",), nfc=True
)
# Qwen/Qwen3.5: quoted in llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN35.
_QWEN35: Final = PreTokenizer(
    expressions=(
        (
            rf"{_CONTRACTIONS}|{_EDGE}[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
        ),
    ),
    nfc=True,
)
# Xenova/gpt-4o: quoted in llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_GPT4O.
_GPT4O: Final = PreTokenizer(
    expressions=(
        (
            rf"{_EDGE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_EDGE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
            rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
        ),
    )
)
# mistralai/Mistral-Nemo-Base-2407: quoted in llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_TEKKEN.
_TEKKEN: Final = PreTokenizer(
    expressions=(
        (
            rf"{_EDGE}{_UPPER}*{_LOWER}+|{_EDGE}{_UPPER}+{_LOWER}*"
            rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
        ),
    ),
    ignore_merges=True,
    add_bos=True,
)
# Not a checkpoint's: what llama.cpp does with files of the time before `tokenizer.ggml.pre`.
_DEFAULT: Final = PreTokenizer(
    expressions=(
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    )
)

PRETOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "": _DEFAULT,
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mellum", "granite-docling"), GPT2),
    # of jinaai/jina-embeddings-v2-base-es and -de
    **dict.fromkeys(("jina-es", "jina-de", "jina-v2-es", "jina-v2-de"), GPT2),
    **dict.fromkeys(("roberta-bpe", "jina-v1-en", "jina-v2-code"), _ROBERTA),
    # answerdotai/ModernBERT-base, allenai/OLMo: the tokenizer of GPT-NeoX, with NFC
    **dict.fromkeys(("modern-bert", "olmo"), replace(GPT2, nfc=True)),
    **dict.fromkeys(("starcoder", "refact", "smollm"), _DIGITS),
    # jina-v5-nano is EuroBERT's, which is Llama 3's
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "jina-v5-nano", "lfm2"), _LLAMA3),
    # f2llmv2 is Qwen3's
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "f2llmv2"), _QWEN2),
    "stablelm2": replace(_QWEN2, nfc=False),
    "qwen35": _QWEN35,
    "gpt-4o": _GPT4O,
    # ibm-granite/granite-embedding-97m-multilingual-r2: llama.cpp #22716
    "granite-embed-multi-97m": replace(_GPT4O, ignore_merges=True),
    "tekken": _TEKKEN,
}
