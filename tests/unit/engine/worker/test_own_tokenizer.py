"""The model's own tokenizer in a worker: used where it agrees with llama.cpp's on plain texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.engine import tokenizer_place
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc.messages import Load
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.protocol import Tokenizer
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerPlace, TokenizerVerdict
from embedd.engine.worker.own_tokenizer import (
    Candidate,
    build_candidate,
    choose_tokenizer,
    find_disagreement,
)
from embedd.tokenizers import model_tokenizer
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from embedd.tokenizers.probe import PROBE
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import Pooling, TokenIds
from tests.contract.conftest import make_spec
from tests.tiny_models import write_tiny_bert, write_tiny_decoder

LLAMA, SERVER, WORKER = TokenizerPlace.LLAMA, TokenizerPlace.SERVER, TokenizerPlace.WORKER


@pytest.fixture(params=["bert", "decoder"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """A load that is to find out whether the model's own tokenizer can be used."""
    write = write_tiny_bert if request.param == "bert" else write_tiny_decoder
    spec = make_spec(write(tmp_path / "tiny.gguf"), Pooling.MEAN)
    return Load(spec=spec, backend=LLAMA_BACKENDS[-1], tokenizer=None)


def at(load: Load, place: TokenizerPlace | None) -> Load:
    return Load(spec=load.spec, backend=load.backend, tokenizer=place)


def choose(load: Load) -> tuple[Tokenizer, TokenizerVerdict]:
    return choose_tokenizer(load, build_candidate(load), LlamaTokenizer.load(load.spec))


def test_one_that_agrees_is_used_and_measured(load: Load) -> None:
    tokenizer, verdict = choose(load)
    assert isinstance(tokenizer, ModelTokenizer)
    assert (verdict.place, verdict.reason, verdict.name) == (SERVER, "", "model")
    assert verdict.size >= 0


def test_a_large_one_stays_in_the_worker(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenizer_place.MAX_SERVER_BYTES == 64 << 20
    own = load_tokenizer(load.spec.path)[0]
    for size, place in ((64 << 20, SERVER), ((64 << 20) + 1, WORKER)):
        monkeypatch.setattr(model_tokenizer, "load_tokenizer", lambda _, size=size: (own, size))
        assert choose(load) == (own, TokenizerVerdict(place=place, size=size))


def test_what_is_known_is_not_found_out_again(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compared")

    monkeypatch.setattr("embedd.engine.worker.own_tokenizer.find_disagreement", refuse)
    tokenizer, verdict = choose(at(load, WORKER))
    assert isinstance(tokenizer, ModelTokenizer)
    assert (verdict.place, verdict.name) == (WORKER, "model")
    monkeypatch.setattr(model_tokenizer, "load_tokenizer", refuse)
    for place in (SERVER, LLAMA):
        tokenizer, verdict = choose(at(load, place))
        assert isinstance(tokenizer, LlamaTokenizer)
        assert verdict == TokenizerVerdict(place=place)
    assert LLAMA_TOKENIZER.name == "llama"


@pytest.mark.parametrize("place", [None, WORKER])
@pytest.mark.parametrize(
    ("error", "reason"),
    [(TokenizerError("no merges"), "no merges"), (MemoryError(), "not enough memory")],
)
def test_one_that_cannot_be_built_is_replaced_by_llama_cpps(
    error: BaseException,
    reason: str,
    place: TokenizerPlace | None,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(model_tokenizer, "load_tokenizer", fail)
    tokenizer, verdict = choose(at(load, place))
    assert isinstance(tokenizer, LlamaTokenizer)
    assert (verdict.place, verdict.name) == (LLAMA, "llama")
    assert reason in verdict.reason


class Changed:
    """A tokenizer that differs from another in something."""

    def __init__(self, own: Tokenizer, **changes: Any) -> None:
        self._own = own
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def test_any_disagreement_is_named_with_the_first_text_that_differs(load: Load) -> None:
    theirs = LlamaTokenizer.load(load.spec)
    own = load_tokenizer(load.spec.path)[0]
    assert find_disagreement(own, theirs) == ""

    def change(texts: Sequence[str]) -> list[TokenIds]:
        rows = own.tokenize(texts)
        return [row if text != PROBE[7] else np.append(row, 5) for text, row in zip(texts, rows)]  # noqa: B905 - as many

    def fail(_: Sequence[str]) -> list[TokenIds]:
        raise TokenizerError("tokenizing failed: a panic")

    def fail_on_nul(texts: Sequence[str]) -> list[TokenIds]:
        if any("\0" in text for text in texts):
            raise TokenizerError("tokenizing failed: a rare panic")
        return own.tokenize(texts)

    pair = replace(own.pair_template, suffix=()) if own.pair_template else None
    for changes, reason in (
        ({"vocabulary_size": 5}, "vocabulary_size of the model's own tokenizer is 5, of llama"),
        ({"special_tokens": SpecialTokens(prefix=(7,), suffix=())}, "special_tokens of"),
        ({"pair_template": pair}, "pair_template of"),
        ({"tokenize": change}, f"in 1 of {len(PROBE)} plain texts, first in {PROBE[7]!r:.80}"),
        ({"tokenize": fail}, "tokenizing failed: a panic"),
        ({"tokenize": fail_on_nul}, "tokenizing failed: a rare panic"),
    ):
        found = find_disagreement(Changed(own, **changes), theirs)
        assert reason in found
        candidate = Candidate(tokenizer=Changed(own, **changes), size=1)
        tokenizer, verdict = choose_tokenizer(load, candidate, theirs)
        assert tokenizer is theirs
        assert verdict == TokenizerVerdict(place=LLAMA, reason=found)
