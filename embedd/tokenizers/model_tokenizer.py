"""A model's own tokenizer, made of the vocabulary in its GGUF."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil
from tokenizers import AddedToken, Encoding, Tokenizer

from embedd.errors import InvalidTokenIdError
from embedd.tokenizers.builders import (
    WORD_START,
    Assemble,
    decides_lowercase,
    has_separate_words,
    prepare,
)
from embedd.tokenizers.failures import TokenizerError, name_failure, named_failures
from embedd.tokenizers.numbers import Joiner
from embedd.tokenizers.pieces import TO_BYTES, clean_wordpieces, read_byte_token
from embedd.tokenizers.pretokenizers import PRETOKENIZERS
from embedd.tokenizers.slices import (
    CUTS,
    Check,
    are_short,
    group_slices,
    no_check,
    replace_surrogates,
)
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens, surround_pair
from embedd.tokenizers.vocabulary import TokenType, Vocabulary, read_vocabulary
from embedd.tokenizers.words import Words
from embedd.types import Located, TokenIds, TokenPiece

# Control, unknown and user-defined tokens, which are looked for in every text; Gemma has 6,400.
MAX_ADDED: Final = 50_000
# Ids whose names are looked up by one call, in some milliseconds of the interpreter's lock.
PIECES_AT_A_TIME: Final = 1 << 14
_QUERY, _DOCUMENT = "{query}", "{document}"


def load_tokenizer(path: Path) -> tuple["ModelTokenizer", int]:
    """Build the tokenizer of the GGUF at *path*; also gives the bytes that it takes.

    The bytes are measured: by how much this process grew. Some 30 ms for 30,000 tokens of
    WordPiece, half a second for 150,000 byte pairs.

    Raises:
        TokenizerError: It cannot be built exactly: llama.cpp's is to be used.
        ModelLoadError: The file is not a usable GGUF.
    """
    process = psutil.Process()
    before = process.memory_info().rss
    tokenizer = ModelTokenizer(read_vocabulary(path))
    return tokenizer, max(0, process.memory_info().rss - before)


class ModelTokenizer:
    """Turns texts to the ids that the model was trained with, and back.

    May be used by several threads at once. Lone surrogates of a text count as U+FFFD.

    Args:
        vocabulary: As the model's file has it; it is not kept.

    Attributes:
        vocabulary_size: How many ids there are.
        special_tokens: What is put around a text.
        pair_template: What is put around a query and a document that are scored together; None
            if the file has a template that cannot be followed.

    Raises:
        TokenizerError: It cannot be built exactly: llama.cpp's is to be used.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        assemble = prepare(vocabulary)
        self.vocabulary_size = len(vocabulary.tokens)
        self._kind = vocabulary.model
        self._types = vocabulary.types
        self._unknown = vocabulary.unk
        unlike = np.flatnonzero(vocabulary.types != TokenType.NORMAL).tolist()
        self._names = {id_: vocabulary.tokens[id_] for id_ in unlike}
        self._drops_first_space = vocabulary.model == "t5" and vocabulary.add_space_prefix
        added = _list_added(vocabulary)
        self._literal = _assemble(assemble, [one for _, one in added if not one.special])
        self._parsing = _assemble(assemble, [one for _, one in added])
        self._ids = _map_ids(self._parsing, added, self.vocabulary_size)
        names = [one.content for _, one in added]
        self._cuts = _choose_cuts(vocabulary, names)
        self._words: dict[bool, Words] = {}  # by whether names of control tokens are parsed
        if vocabulary.model == "bert" and _leave_words_whole([one for _, one in added]):
            spell = _make_speller(self._parsing, lowers=decides_lowercase(vocabulary))
            for parse in (False, True):
                locate = partial(self._locate_ids, parse_special=parse)
                self._words[parse] = Words(locate, spell)
        self.special_tokens = _find_special_tokens(vocabulary)
        self._before = np.array(self.special_tokens.prefix, np.int32)
        self._after = np.array(self.special_tokens.suffix, np.int32)
        self._frame = (self._before.tobytes(), self._after.tobytes())
        self.pair_template = self._find_pair_template(vocabulary)

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[TokenIds]:
        """The ids of each text.

        Args:
            texts: Any number, of any length.
            add_special: Whether `special_tokens` is put around each.
            parse_special: Whether the names of control tokens in a text become those tokens;
                else no id of a control token comes from a text.
            check: Called between slices of long work; what it raises ends the work.

        Raises:
            TokenizerError: The library failed.
        """
        if are_short(texts):
            frame = self._frame if add_special else (b"", b"")
            return [self._find_ids(text, frame, parse_special=parse_special) for text in texts]
        before, after = ([self._before], [self._after]) if add_special else ([], [])
        slices = self._encode(texts, parse_special=parse_special, located=False, check=check)
        rows = []
        for _, group in groupby(slices, itemgetter(0)):
            ids = Joiner(*before)
            for part in chain((self._read_ids(encoding) for _, _, encoding in group), after):
                ids.add(part)
            rows.append(ids.join())
        return rows

    def locate(
        self,
        texts: Sequence[str],
        *,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[Located]:
        """The ids of each text without `special_tokens`, and where in the text each token stands.

        Places are characters of *texts*: a character that is several tokens is the place of
        each. The arguments and the error are those of `tokenize`.
        """
        slices = self._encode(texts, parse_special=parse_special, located=True, check=check)
        located: list[Located] = []
        for _, group in groupby(slices, itemgetter(0)):
            ids, places = Joiner(), Joiner()
            for _, start, encoding in group:
                ids.add(self._read_ids(encoding))
                places.add(np.array(encoding.offsets, np.int32) + start)
            located.append((ids.join(), places.join().reshape(-1, 2)))
        return located

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence, which may end within a character.

        Args:
            sequences: Ids as `tokenize` gives them.
            special: Whether control and unknown tokens are written as their names.

        Raises:
            InvalidTokenIdError: An id is not in the vocabulary.
        """
        texts: list[bytes] = []
        for ids in sequences:
            kept = ids if special else ids[~np.isin(self._types[self._check_ids(ids)], _SPECIAL)]
            text = b"".join(self._texts(kept))
            if self._kind == "bert":
                text = clean_wordpieces(text)
            texts.append(text.removeprefix(b" ") if self._drops_first_space else text)
        return texts

    def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """What each id stands for; a WordPiece that begins a word has a space before it.

        Raises:
            InvalidTokenIdError: An id is not in the vocabulary.
        """
        self._check_ids(ids)
        known: dict[int, TokenPiece] = {}
        pieces: list[TokenPiece] = []
        for start in range(0, len(ids), PIECES_AT_A_TIME):
            rows = ids[start : start + PIECES_AT_A_TIME].tolist()
            known |= {one: self._find_piece(one) for one in {*rows} - known.keys()}
            pieces += map(known.__getitem__, rows)
        return pieces

    def _texts(self, ids: TokenIds) -> Iterator[bytes]:
        """The text of all ids, in slices."""
        for start in range(0, len(ids), PIECES_AT_A_TIME):
            pieces = self.token_pieces(ids[start : start + PIECES_AT_A_TIME])
            yield b"".join([piece.text for piece in pieces])

    def _encode(
        self,
        texts: Sequence[str],
        *,
        parse_special: bool,
        located: bool,
        check: Check,
    ) -> Iterator[tuple[int, int, Encoding]]:
        """For each slice: the index of its text, where in that it begins, what became of it."""
        tokenizer = self._parsing if parse_special else self._literal
        if are_short(texts):
            for index, text in enumerate(texts):
                yield index, 0, self._encode_short(text, parse_special=parse_special)
            return
        encode = tokenizer.encode_batch if located else tokenizer.encode_batch_fast
        for call in group_slices(texts, cuts=self._cuts):
            check()
            with named_failures("tokenizing"):
                rows = encode([part for _, _, part in call], add_special_tokens=False)
            for (index, start, _), row in zip(call, rows, strict=True):
                yield index, start, row

    def _find_ids(self, text: str, frame: tuple[bytes, bytes], *, parse_special: bool) -> TokenIds:
        """The ids of a short text, between those in *frame*."""
        words = self._words.get(parse_special)
        if words is None:
            encoding = self._encode_short(text, parse_special=parse_special)
            ids = self._read_ids(encoding).tobytes()
        else:
            ids = words.encode(text)
        return np.frombuffer(frame[0] + ids + frame[1], np.int32)

    def _locate_ids(self, text: str, *, parse_special: bool) -> tuple[list[int], list[int]]:
        """The ids of a short text, and where in it each begins."""
        encoding = self._encode_short(text, parse_special=parse_special)
        return self._read_ids(encoding).tolist(), [start for start, _ in encoding.offsets]

    def _encode_short(self, text: str, *, parse_special: bool) -> Encoding:
        tokenizer = self._parsing if parse_special else self._literal
        try:
            return tokenizer.encode(replace_surrogates(text), add_special_tokens=False)
        except BaseException as error:
            failure = name_failure("tokenizing", error)
            if failure is None:
                raise
            raise failure from error

    def _read_ids(self, encoding: Encoding) -> TokenIds:
        return self._ids[np.array(encoding.ids, np.int32)]

    def _check_ids(self, ids: TokenIds) -> TokenIds:
        wrong = np.flatnonzero((ids < 0) | (ids >= self.vocabulary_size))
        if len(wrong):
            position = int(wrong[0])
            raise InvalidTokenIdError(
                f"{ids[position]} is not a token id: the model has 0 to {self.vocabulary_size - 1}",
                position=position,
                value=str(ids[position]),
                vocabulary=self.vocabulary_size,
            )
        return ids

    def _find_piece(self, id_: int) -> TokenPiece:
        name = self._names.get(id_)
        if name is None:
            name = self._parsing.id_to_token(id_) or ""
            return TokenPiece(text=TO_BYTES[self._kind](name), is_special=False)
        kind = int(self._types[id_])
        if kind == TokenType.BYTE:
            return TokenPiece(text=read_byte_token(name), is_special=False)
        text = name.encode() if kind in _NAMED else b""
        # It stands for a part of a text, whatever type its file gives it.
        is_special = kind == TokenType.CONTROL and id_ != self._unknown
        return TokenPiece(text=text, is_special=is_special)

    def _find_pair_template(self, vocabulary: Vocabulary) -> PairTemplate | None:
        if vocabulary.pair_template is not None:
            return self._parse_pair(vocabulary.pair_template)
        special, rules = self.special_tokens, PRETOKENIZERS.get(vocabulary.pre)
        add_sep = vocabulary.add_sep
        if add_sep is None and self._kind == "gpt2":
            add_sep = rules is not None and rules.add_sep
        elif add_sep is None:
            # Files of XLM-R's cross-encoders from before 2025 do not say so.
            add_sep = bool(special.prefix)
        return surround_pair(
            special,
            end=vocabulary.tokens[special.suffix[-1]] if special.suffix else "",
            separator=vocabulary.sep,
            add_separator=add_sep,
        )

    def _parse_pair(self, template: str) -> PairTemplate | None:
        head, query, rest = template.partition(_QUERY)
        middle, document, tail = rest.partition(_DOCUMENT)
        if not query or not document or _DOCUMENT in head:
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


def _list_added(vocabulary: Vocabulary) -> list[tuple[int, AddedToken]]:
    """The tokens that are found in a text before it is cut into words, with their ids."""
    pairs = []
    is_bert = vocabulary.model == "bert"
    ids = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    if len(ids) > MAX_ADDED:
        raise TokenizerError(f"{len(ids)} tokens with a role, at most {MAX_ADDED}", limit=MAX_ADDED)
    for id_ in ids:
        text = vocabulary.tokens[id_]
        special = vocabulary.types[id_] != TokenType.USER_DEFINED
        if is_bert and not special:
            text = text.removeprefix(WORD_START)
        if text:
            # A mask stands for a word with the space before it, but for BERT's.
            strip = id_ == vocabulary.mask and not is_bert
            added = AddedToken(
                text, special=special, normalized=is_bert and not special, lstrip=strip
            )
            pairs.append((id_, added))
    return pairs


def _assemble(assemble: Assemble, added: list[AddedToken]) -> Tokenizer:
    with named_failures("building the tokenizer"):
        tokenizer = assemble()
        tokenizer.add_tokens(added)
        return tokenizer


def _map_ids(
    tokenizer: Tokenizer, added: Iterable[tuple[int, AddedToken]], size: int
) -> npt.NDArray[np.int32]:
    """The library's id → the model's: tokens that its model lacks have ids beyond the end."""
    ids = np.arange(tokenizer.get_vocab_size(with_added_tokens=True), dtype=np.int32)
    seen: set[int] = set()
    for id_, token in added:
        found = tokenizer.token_to_id(token.content)
        if found is None or found in seen or (found < size and found != id_):
            raise TokenizerError(f"the token {token.content!r:.80} has a second meaning")
        seen.add(found)
        ids[found] = id_
    return ids


def _leave_words_whole(added: Iterable[AddedToken]) -> bool:
    """Whether none of the tokens that are looked for in all texts has a space, or is in a word.

    Those that are not special are looked for as the library normalises them: they may be anywhere.
    """
    return all(
        one.special and " " not in one.content and not one.content.isalnum() for one in added
    )


def _make_speller(tokenizer: Tokenizer, *, lowers: bool) -> Callable[[str], list[int]]:
    """Return what finds the ids of a word of ASCII letters and digits in WordPiece.

    Nothing of such a word is normalised but its case, and nothing cuts it.
    """
    model = tokenizer.model

    def spell(word: str) -> list[int]:
        try:
            return [token.id for token in model.tokenize(word.lower() if lowers else word)]
        except BaseException as error:
            failure = name_failure("tokenizing", error)
            if failure is None:
                raise
            raise failure from error

    return spell


def _choose_cuts(vocabulary: Vocabulary, added: Iterable[str]) -> re.Pattern[str] | None:
    """Where a text may be cut without changing its tokens; None is nowhere."""
    cuts = CUTS[vocabulary.model]
    if any(map(cuts.search, added)):
        return None
    return cuts if vocabulary.model != "t5" or has_separate_words(vocabulary) else None


def _find_special_tokens(vocabulary: Vocabulary) -> SpecialTokens:
    """What llama.cpp puts around a text, by the file's flags and its defaults."""
    bos, eos, sep = vocabulary.bos, vocabulary.eos, vocabulary.sep
    if vocabulary.model == "bert":
        if bos is None or sep is None:
            raise TokenizerError("the WordPiece vocabulary has no tokens around a text")
        return SpecialTokens(prefix=(bos,), suffix=(sep,))
    add_bos, add_eos = vocabulary.add_bos, vocabulary.add_eos
    if add_bos is None:
        add_bos = vocabulary.model == "gpt2" and PRETOKENIZERS[vocabulary.pre].add_bos
    if add_eos is None:
        add_eos = vocabulary.model == "t5"
    return SpecialTokens(
        prefix=(bos,) if add_bos and bos is not None else (),
        suffix=(eos,) if add_eos and eos is not None else (),
    )


_SPECIAL: Final = (TokenType.CONTROL, TokenType.UNKNOWN)
_NAMED: Final = frozenset({TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED})
