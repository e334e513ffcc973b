"""Texts to token ids with the model's own tokenizer."""

from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as lib

from embedd.engine.llama.model import LlamaModel
from embedd.errors import ModelLoadError
from embedd.tokens import Frame
from embedd.types import TokenIds

NO_TOKENIZER = 0
PROBE = "a"


class Vocabulary:
    """The tokenizer of a loaded model. One thread at a time: it owns a buffer.

    Raises:
        ModelLoadError: The file has no tokenizer.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._vocab = model.vocab
        if lib.llama_vocab_type(self._vocab) == NO_TOKENIZER:
            raise ModelLoadError("the GGUF has no tokenizer: convert the model with its vocabulary")
        self._buffer = np.empty(1024, np.int32)
        self.frame = self._learn_frame()

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text with its special tokens. A text that spells one gets it."""
        return [self._tokenize(text, add_special=True) for text in texts]

    def _tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        data = text.encode("utf-8", "replace")
        needed = len(data) + 8
        while True:
            if needed > len(self._buffer):
                self._buffer = np.empty(needed, np.int32)
            count = lib.llama_tokenize(
                self._vocab,
                data,
                len(data),
                self._buffer.ctypes.data_as(lib.llama_token_p),
                len(self._buffer),
                add_special,
                True,  # noqa: FBT003 - a C call: parse_special
            )
            if count >= 0:
                return self._buffer[:count].copy()
            # Normalisation can give more tokens than bytes; the answer says how many.
            needed = -count

    def _learn_frame(self) -> Frame:
        """What is put around a text, seen by doing it: the file's flags are not reliable."""
        framed = self._tokenize(PROBE, add_special=True)
        bare = self._tokenize(PROBE, add_special=False)
        for start in range(len(framed) - len(bare) + 1):
            end = start + len(bare)
            if np.array_equal(framed[start:end], bare):
                return Frame(
                    prefix=tuple(framed[:start].tolist()), suffix=tuple(framed[end:].tolist())
                )
        raise ModelLoadError("the tokenizer changes a text when it adds special tokens")
