"""The vocabulary of a checkpoint, of whichever kind it is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from embedd.convert.byte_pairs import read_byte_pairs
from embedd.convert.sentencepiece import is_sentencepiece, read_sentencepiece
from embedd.convert.tokenizer_files import TOKENIZER, TokenizerFiles, read_tokenizer_files
from embedd.convert.unigram import read_unigram
from embedd.convert.wordpiece import VOCABULARY, read_wordpiece
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import MAX_TOKENS, Vocabulary

_READERS: Final[Mapping[str, Callable[..., Vocabulary]]] = {
    "WordPiece": read_wordpiece,
    "Unigram": read_unigram,
    "BPE": lambda files, *, size: (
        read_sentencepiece(files, size=size)
        if is_sentencepiece(files)
        else read_byte_pairs(files, size=size)
    ),
}


def read_vocabulary(folder: Path, *, size: int) -> Vocabulary:
    """The vocabulary of the checkpoint in *folder*, padded to *size* ids.

    Raises:
        ConversionError: Files are missing, contradict each other or need something that a
            GGUF cannot say.
    """
    if size > MAX_TOKENS:
        raise ConversionError(
            f"config.json has vocab_size {size}, at most {MAX_TOKENS} tokens are converted",
            limit=MAX_TOKENS,
        )
    files = read_tokenizer_files(folder)
    return _READERS[_find_kind(files)](files, size=size)


def _find_kind(files: TokenizerFiles) -> str:
    if not files.tokenizer:
        if (files.folder / VOCABULARY).is_file():
            return "WordPiece"
        raise ConversionError(
            f"{files.folder} has neither {TOKENIZER} nor {VOCABULARY}: save the checkpoint with "
            "its fast tokenizer"
        )
    kind = files.model.get("type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise ConversionError(
            f"{files.folder / TOKENIZER} has a model of type {kind!r}: only "
            f"{', '.join(_READERS)} are converted"
        )
    return kind
