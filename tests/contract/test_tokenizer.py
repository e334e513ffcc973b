"""What every tokenizer promises: text to ids and back, with and without special tokens."""

import numpy as np
import pytest

from embedd.engine.protocol import Engine
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling
from tests.contract.conftest import OpenEngine

TEXTS = ["the cat sat", "on a mat", "x"]


@pytest.fixture
def engine(open_engine: OpenEngine) -> Engine:
    return open_engine(Pooling.LAST)


def test_without_special_tokens_only_the_frame_is_missing(engine: Engine) -> None:
    frame = engine.info.special_tokens
    for bare, framed in zip(
        engine.tokenizer.tokenize(TEXTS, add_special=False),
        engine.tokenizer.tokenize(TEXTS),
        strict=True,
    ):
        assert (*frame.prefix, *bare.tolist(), *frame.suffix) == tuple(framed.tolist())


def test_a_text_comes_back_from_its_ids(engine: Engine) -> None:
    ids = engine.tokenizer.tokenize(TEXTS, add_special=False)
    assert [text.decode() for text in engine.tokenizer.detokenize(ids, special=True)] == TEXTS
    framed = engine.tokenizer.tokenize(TEXTS)
    assert [text.decode() for text in engine.tokenizer.detokenize(framed, special=False)] == TEXTS


def test_a_token_stands_where_its_letters_do(engine: Engine) -> None:
    located = engine.tokenizer.locate([*TEXTS, ""])
    rows = engine.tokenizer.tokenize([*TEXTS, ""], add_special=False)
    for text, ids, (found, places) in zip([*TEXTS, ""], rows, located, strict=True):
        assert found.tolist() == ids.tolist()
        assert places.dtype == np.int32
        assert places.shape == (len(ids), 2)
        pieces = engine.tokenizer.token_pieces(ids)
        for piece, (start, stop) in zip(pieces, places.tolist(), strict=True):
            assert text[start:stop].strip() == piece.text.decode().strip()


def test_a_literal_text_is_located_without_its_special_tokens(engine: Engine) -> None:
    special = engine.info.special_tokens.suffix[0]
    [named] = engine.tokenizer.detokenize([np.array([special], np.int32)], special=True)
    name = chr(special) if named == b"[SEP]" and special == 2 else named.decode()
    [(parsed, places)] = engine.tokenizer.locate([f"the {name}"])
    assert (parsed[-1], places[-1].tolist()) == (special, [4, 4 + len(name)])
    [(literal, _)] = engine.tokenizer.locate([f"the {name}"], parse_special=False)
    assert special not in literal


def test_special_tokens_are_named_or_left_out(engine: Engine) -> None:
    special = [*engine.info.special_tokens.prefix, *engine.info.special_tokens.suffix]
    pieces = engine.tokenizer.token_pieces(np.array(special, np.int32))
    assert all(piece.is_special for piece in pieces)
    [named] = engine.tokenizer.detokenize([np.array(special[:1], np.int32)], special=True)
    assert named == pieces[0].text != b""
    assert engine.tokenizer.detokenize([np.array(special, np.int32)], special=False) == [b""]


def test_pieces_make_up_the_text(engine: Engine) -> None:
    [ids] = engine.tokenizer.tokenize(["the cat"], add_special=False)
    pieces = engine.tokenizer.token_pieces(ids)
    assert not any(piece.is_special for piece in pieces)
    assert b"".join(piece.text for piece in pieces).decode().strip() in ("the cat", "thecat")
    assert engine.tokenizer.token_pieces(np.empty(0, np.int32)) == []


def test_a_text_cannot_forge_a_special_token(engine: Engine) -> None:
    special = engine.info.special_tokens.suffix[0]
    [named] = engine.tokenizer.detokenize([np.array([special], np.int32)], special=True)
    text = chr(special) if named == b"[SEP]" and special == 2 else named.decode()
    [parsed] = engine.tokenizer.tokenize([text], add_special=False)
    [literal] = engine.tokenizer.tokenize([text], add_special=False, parse_special=False)
    assert parsed.tolist() == [special]
    assert special not in literal


@pytest.mark.parametrize("bad", [-1, None])
def test_an_id_outside_the_vocabulary_is_refused(engine: Engine, bad: int | None) -> None:
    ids = np.array([5, engine.info.vocabulary if bad is None else bad], np.int32)
    with pytest.raises(EngineError, match="token id"):
        engine.tokenizer.token_pieces(ids)
    with pytest.raises(EngineError, match="token id"):
        engine.tokenizer.detokenize([ids], special=True)


def test_long_texts_are_longer_than_any_buffer(engine: Engine) -> None:
    [ids] = engine.tokenizer.tokenize(["the cat sat " * 200], add_special=False)
    [text] = engine.tokenizer.detokenize([np.tile(ids, 3)], special=True)
    assert len(text) > 5000


def test_a_pair_has_the_query_before_the_document(engine: Engine) -> None:
    pair = engine.info.pair_template
    assert pair is not None
    frame = engine.info.special_tokens
    assert (pair.prefix, pair.suffix) == (frame.prefix, frame.suffix)
    query, document = engine.tokenizer.tokenize(
        ["why", "the sky"], add_special=False, parse_special=False
    )
    joined = pair.join(query, document)
    assert len(joined) == len(pair) + len(query) + len(document)


def test_a_reranker_gives_a_number_for_each_label(open_engine: OpenEngine) -> None:
    try:
        engine = open_engine(Pooling.RANK)
    except ModelLoadError as error:  # a decoder without a head
        assert "cannot rerank" in str(error)
        return
    sequences = engine.tokenizer.tokenize(TEXTS)
    scores = engine.encode(sequences)
    assert scores.shape == (len(TEXTS), len(engine.info.labels))
    assert len({*scores[:, 0].tolist()}) == len(TEXTS)
    assert engine.info.labels in (("",), ("no", "yes"))
