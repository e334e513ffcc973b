"""`LlamaTokenizer`: the `Tokenizer` protocol on llama.cpp."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from embedd.engine.llama.binding import lib
from embedd.engine.llama.model import LlamaModel
from embedd.engine.llama.places import UNKNOWN, find_places
from embedd.engine.protocol import check_ids
from embedd.engine.spec import ModelSpec
from embedd.errors import ModelLoadError
from embedd.tokenizers.slices import Check, no_check
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens, surround_pair
from embedd.types import Located, TokenIds, TokenPiece

NO_TOKENIZER = 0
WORDPIECE = 3
UNIGRAM = 4
PROBE = "a"
QUERY, DOCUMENT = "{query}", "{document}"


class LlamaTokenizer:
    """The tokenizer of a loaded model. One thread at a time may use it: it owns a buffer.

    Raises:
        ModelLoadError: The file has no tokenizer.

    Attributes:
        special_tokens: The special tokens before and after every text.
        pair_template: The tokens around a query and a document; None if the file's template is
            not understood.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._vocab = model.vocab
        self._kind: int = lib.llama_vocab_type(self._vocab)
        if self._kind == NO_TOKENIZER:
            raise ModelLoadError("the GGUF has no tokenizer: convert the model with its vocabulary")
        self._buffer = np.empty(1024, np.int32)
        self.special_tokens = self._learn_special_tokens()
        self.pair_template = self._learn_pair_template()

    @classmethod
    def load(cls, spec: ModelSpec) -> Self:
        """Read the vocabulary of *spec* without its weights, in some milliseconds.

        Raises:
            ModelLoadError: The file or its tokenizer cannot be used.
        """
        model = LlamaModel(
            spec.path, parts=spec.parts, extra_buffers=False, gpu_layers=0, vocabulary_only=True
        )
        return cls(model)

    @property
    def vocabulary_size(self) -> int:
        """See `Tokenizer.vocabulary_size`."""
        return self._model.vocabulary

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[TokenIds]:
        """See `Tokenizer.tokenize`."""
        rows = []
        for text in texts:
            check()
            rows.append(self._tokenize(text, add_special=add_special, parse_special=parse_special))
        return rows

    def locate(
        self, texts: Sequence[str], *, parse_special: bool = True, check: Check = no_check
    ) -> list[Located]:
        """See `Tokenizer.locate`."""
        rows = self.tokenize(texts, add_special=False, parse_special=parse_special, check=check)
        by_words = self._kind == WORDPIECE
        located: list[Located] = []
        for text, ids in zip(texts, rows, strict=True):
            check()
            places = find_places(text, self.token_pieces(ids), by_words=by_words)
            located.append((ids, places))
        return located

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """See `Tokenizer.detokenize`."""
        return [self._detokenize(ids, special=special) for ids in sequences]

    def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """See `Tokenizer.token_pieces`."""
        check_ids(ids, self._model.vocabulary)
        known = {one: self._token_piece(one) for one in {*ids.tolist()}}
        return [known[one] for one in ids.tolist()]

    def _learn_pair_template(self) -> PairTemplate | None:
        template = self._model.pair_template
        if template is not None:
            return self._parse_pair(template)
        special = self.special_tokens
        add_separator = lib.llama_vocab_get_add_sep(self._vocab)
        if self._kind == UNIGRAM and self._model.read_key("tokenizer.ggml.add_sep_token") == "":
            # Files of XLM-R's cross-encoders from before 2025 do not say so.
            add_separator = bool(special.prefix)
        separator = lib.llama_vocab_sep(self._vocab)
        end = lib.llama_vocab_get_text(self._vocab, special.suffix[-1]) if special.suffix else b""
        return surround_pair(
            special,
            end=end.decode("utf-8", "replace"),
            separator=separator if separator >= 0 else None,
            add_separator=add_separator,
        )

    def _parse_pair(self, template: str) -> PairTemplate | None:
        head, query, rest = template.partition(QUERY)
        middle, document, tail = rest.partition(DOCUMENT)
        if not query or not document or DOCUMENT in head:
            return None
        texts = [head, middle, tail]
        # A word and the space before it are one token: the space goes with the user's text.
        leads = [" " if text.endswith(" ") else "" for text in texts[:2]]
        texts[:2] = [text.removesuffix(" ") for text in texts[:2]]
        ids = [tuple(row.tolist()) for row in self.tokenize(texts, add_special=False)]
        return PairTemplate(
            prefix=ids[0],
            middle=ids[1],
            suffix=ids[2],
            query_lead=leads[0],
            document_lead=leads[1],
        )

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> TokenIds:
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
                parse_special,
            )
            if count >= 0:
                return self._buffer[:count].copy()
            # Normalisation can give more tokens than bytes; llama.cpp returns how many.
            needed = -count

    def _detokenize(self, ids: TokenIds, *, special: bool) -> bytes:
        check_ids(ids, self._model.vocabulary)
        ids = np.ascontiguousarray(ids, np.int32)
        pointer = ids.ctypes.data_as(lib.llama_token_p)
        text = _read_text(
            16 * len(ids) + 16,
            lambda buffer, size: lib.llama_detokenize(
                self._vocab,
                pointer,
                len(ids),
                buffer,
                size,
                False,  # remove_special
                special,
            ),
        )
        # WordPiece puts a space before every word, also before the first.
        return text.removeprefix(b" ") if self._kind == WORDPIECE else text

    def _token_piece(self, id_: int) -> TokenPiece:
        text = _read_text(
            64,
            lambda buffer, size: lib.llama_token_to_piece(
                self._vocab,
                id_,
                buffer,
                size,
                0,
                True,  # special
            ),
        )
        is_control = bool(lib.llama_vocab_is_control(self._vocab, id_))
        return TokenPiece(text, is_control and text not in UNKNOWN)

    def _learn_special_tokens(self) -> SpecialTokens:
        """Find the special tokens by adding them to a text: the file's flags are not reliable."""
        framed = self._tokenize(PROBE, add_special=True)
        bare = self._tokenize(PROBE, add_special=False)
        for start in range(len(framed) - len(bare) + 1):
            end = start + len(bare)
            if np.array_equal(framed[start:end], bare):
                return SpecialTokens(
                    prefix=tuple(framed[:start].tolist()), suffix=tuple(framed[end:].tolist())
                )
        raise ModelLoadError("the tokenizer changes a text when it adds special tokens")


def _read_text(size: int, write: Callable[[Any, int], int]) -> bytes:
    """What *write* puts into a buffer; it returns the bytes written, or minus those it needs."""
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = write(buffer, size)
        if count >= 0:
            return buffer.raw[:count]
        size = -count
