"""The model's own tokenizer in a worker: built, measured, compared with llama.cpp's."""

from dataclasses import dataclass

from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import Tokenizer
from embedd.engine.tokenizer_place import (
    TokenizerPlace,
    TokenizerVerdict,
    choose_place,
)
from embedd.errors import ModelLoadError
from embedd.tokenizers.probe import ODD, PROBE, find_differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A tokenizer that was built, or why it was not."""

    tokenizer: Tokenizer | None = None
    size: int = 0
    reason: str = ""


def build_candidate(load: Load) -> Candidate:
    """Build the tokenizer that *load* asks for; to be called before anything else is loaded.

    Its size is how much the process grows, which nothing else must change meanwhile.
    """
    if load.tokenizer in (TokenizerPlace.LLAMA, TokenizerPlace.SERVER):
        return Candidate()
    from embedd.tokenizers import model_tokenizer  # noqa: PLC0415 - its library is large

    try:
        tokenizer, size = model_tokenizer.load_tokenizer(load.spec.path)
    except ModelLoadError as error:
        return Candidate(reason=str(error))
    except MemoryError:
        return Candidate(reason="not enough memory to build the model's own tokenizer")
    return Candidate(tokenizer=tokenizer, size=size)


def choose_tokenizer(
    load: Load, candidate: Candidate, theirs: Tokenizer
) -> tuple[Tokenizer, TokenizerVerdict]:
    """Choose between *candidate* and llama.cpp's tokenizer; the server is sent the verdict.

    A candidate that was never compared is used only if it agrees with llama.cpp's.
    """
    if load.tokenizer in (TokenizerPlace.LLAMA, TokenizerPlace.SERVER):
        return theirs, TokenizerVerdict(place=load.tokenizer)
    ours, reason = candidate.tokenizer, candidate.reason
    if ours is not None and load.tokenizer is None:
        reason = find_disagreement(ours, theirs)
    if ours is None or reason:
        return theirs, TokenizerVerdict(place=TokenizerPlace.LLAMA, reason=reason)
    place = load.tokenizer or choose_place(candidate.size)
    return ours, TokenizerVerdict(place=place, size=candidate.size)


def find_disagreement(ours: Tokenizer, theirs: Tokenizer) -> str:
    """Return how *ours* differs from llama.cpp's on plain texts; empty if it does not."""
    for what in ("vocabulary_size", "special_tokens", "pair_template"):
        one, other = getattr(ours, what), getattr(theirs, what)
        if one != other:
            return f"{what} of the model's own tokenizer is {one}, of llama.cpp's {other}"
    try:
        rows = ours.tokenize(PROBE)
        ours.tokenize(ODD)
    except ModelLoadError as error:
        return str(error)
    different = find_differences(rows, theirs.tokenize(PROBE))
    if not different:
        return ""
    first = PROBE[different[0]]
    return (
        f"the model's own tokenizer differs from llama.cpp's in {len(different)} of "
        f"{len(PROBE)} plain texts, first in {first!r:.80}"
    )
