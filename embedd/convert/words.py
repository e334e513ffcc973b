"""Parts that unigram and byte-pair vocabularies have in common."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedd.convert.tokenizer_files import (
    AddedToken,
    Frame,
    Object,
    TokenizerFiles,
    fill,
    invert,
)
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import MAX_TEXT_BYTES, TokenType, Vocabulary


def find_mask(files: TokenizerFiles, added: Sequence[AddedToken]) -> int | None:
    """The id of the mask, the one token that takes the spaces before it.

    Raises:
        ConversionError: Another token takes them.
    """
    name = files.role("mask")
    found = {token.id: token.text for token in added if token.lstrip}
    for text in [*found.values()][1:] if name is None else {*found.values()} - {name}:
        raise ConversionError(
            f"the tokenizer looks for {text!r} with lstrip, which a GGUF can only say of a mask"
        )
    return next(iter(found), None)


def is_replacement(step: Object, expression: str, content: str) -> bool:
    """Whether *step* is a ``Replace`` of the regular *expression* by *content*."""
    wanted = {"type": "Replace", "pattern": {"Regex": expression}, "content": content}
    return step == wanted


def make_vocabulary(
    files: TokenizerFiles,
    model: str,
    pieces: Mapping[int, str],
    types: Mapping[int, TokenType],
    *,
    size: int,
    frame: Frame,
    unk: int | None,
    mask: int | None,
    pre: str = "default",
    scores: npt.NDArray[np.float32] | None = None,
    merges: tuple[str, ...] = (),
    charsmap: bytes = b"",
    add_space_prefix: bool = False,
    remove_extra_whitespaces: bool = False,
) -> Vocabulary:
    """The vocabulary of *pieces*, padded to *size* ids.

    Args:
        model: ``tokenizer.ggml.model``.
        types: Of the ids that are not of type normal.
        frame: What texts are put into; the roles of its tokens are BOS and EOS.

    Raises:
        ConversionError: A token occurs twice, or there is more text than a GGUF may have.
    """
    kinds = np.full(size, TokenType.NORMAL, np.uint8)
    tokens: list[str] = []
    for id_, piece, unused in fill(pieces, size):
        tokens.append(unused if piece is None else piece)
        kinds[id_] = TokenType.UNUSED if piece is None else types.get(id_, TokenType.NORMAL)
    ids = invert(dict(enumerate(tokens)))
    for what, texts in (("tokens", tokens), ("merges", merges)):
        length = sum(map(len, map(str.encode, texts)))
        if length > MAX_TEXT_BYTES:
            raise ConversionError(
                f"the {what} have {length} bytes, at most {MAX_TEXT_BYTES} are converted",
                limit=MAX_TEXT_BYTES,
            )
    for id_ in (*frame.prefix, *frame.suffix, *(frame.middle or ())):
        if not 0 <= id_ < size:
            raise ConversionError(
                f"texts are framed by the id {id_}, config.json has vocab_size {size}"
            )
    roles = {role: ids.get(files.role(role) or "") for role in ("bos", "eos", "sep", "pad")}
    if frame.prefix:
        roles["bos"] = frame.prefix[0]
    if frame.suffix:
        roles["eos"] = frame.suffix[0]
    middle = frame.middle or ()
    is_doubled = len(middle) == len(frame.suffix) + 1
    if is_doubled:
        roles["sep"] = middle[-1]
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tuple(tokens),
        types=kinds,
        scores=np.zeros(size, np.float32) if scores is None else scores,
        merges=merges,
        charsmap=charsmap,
        **roles,
        unk=unk,
        mask=mask,
        add_bos=bool(frame.prefix),
        add_eos=bool(frame.suffix),
        add_sep=is_doubled,
        lowercase=None,
        strip_accents=None,
        add_space_prefix=add_space_prefix,
        remove_extra_whitespaces=remove_extra_whitespaces,
        pair_template=None,
    )
