"""What a worker answers to tokenizer calls."""

import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import FakeTokenizer
from embedd.engine.ipc.board import Board
from embedd.engine.ipc.framing import split_located
from embedd.engine.ipc.messages import (
    Detokenize,
    Failed,
    Fault,
    Load,
    Locate,
    Texts,
    Tokenize,
    Tokens,
    ToWorker,
)
from embedd.engine.worker.connection import Answer, Connection
from embedd.engine.worker.load import open_tokenizer
from embedd.engine.worker.tokenizer_calls import SHORT, TokenizerCalls, answer_call
from embedd.errors import EngineError
from embedd.tokenizers.slices import Check, no_check
from embedd.types import Pooling, TokenIds
from tests.contract.conftest import make_spec
from tests.tiny_models import write_tiny_bert


@pytest.mark.parametrize("engine", ["fake", "llama"])
def test_a_vocabulary_answers_every_kind_of_call(engine: str, tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    backend = replace(LLAMA_BACKENDS[0], engine=engine)
    tokenizer = open_tokenizer(Load(spec=spec, backend=backend, vocabulary_only=True))
    said, ids = answer_call(tokenizer, Tokenize(1, ["a", "the sky"]), b"")
    assert isinstance(said, Tokens)
    assert ids is not None
    assert len(ids) == sum(said.lengths)
    located, numbers = answer_call(tokenizer, Locate(6, ["a", "the sky"]), b"")
    assert isinstance(located, Tokens)
    assert numbers is not None
    [_, (_, places)] = split_located(numbers.tobytes(), located.lengths)
    assert places[-1].tolist() == ([6, 7] if engine == "fake" else [4, 7])
    texts, _ = answer_call(tokenizer, Detokenize(2, said.lengths, special=False), ids.tobytes())
    assert texts == Texts(2, [b"a", b"the sky"])
    pieces, _ = answer_call(tokenizer, Detokenize(3, None), ids[:2].tobytes())
    assert isinstance(pieces, Texts)
    assert (len(pieces.texts), pieces.special) == (2, [True, False])
    assert answer_call(tokenizer, Tokenize(4, []), b"")[0] == Tokens(4, [])
    failed, _ = answer_call(tokenizer, Detokenize(5, None), np.array([-1], np.int32).tobytes())
    assert isinstance(failed, Failed)
    assert (failed.id, failed.fault) == (5, Fault.INPUT)


class Sent(Connection[ToWorker]):
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        # Not that of `Connection`: there is no socket.
        self.answers: queue.SimpleQueue[Tokens | Failed] = queue.SimpleQueue()

    def send(self, *answers: Answer) -> None:
        for message, _ in answers:
            assert isinstance(message, Tokens | Failed)
            self.answers.put(message)


class Held(FakeTokenizer):
    """A tokenizer that holds long texts until the test lets it go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[TokenIds]:
        if len(texts[0]) > SHORT:
            self.begun.set()
            self.go_on.wait(60)
        return super().tokenize(
            texts, add_special=add_special, parse_special=parse_special, check=check
        )


@pytest.fixture
def board() -> Iterator[Board]:
    # Not closed: the threads of the tests outlive them.
    with tempfile.TemporaryFile() as file:
        yield Board.create(file)


@pytest.mark.parametrize("shared", [True, False])
def test_the_board_has_the_calls_that_are_being_answered(shared: bool, board: Board) -> None:
    connection, tokenizer = Sent(), Held()
    calls = TokenizerCalls(connection, board)
    calls.start(tokenizer, shared=shared)
    calls.put(Tokenize(1, ["x" * (SHORT + 1)]), b"")
    assert tokenizer.begun.wait(60)
    calls.put(Tokenize(2, ["x" * (SHORT + 1)]), b"")
    assert (board.has(1), board.has(2)) == (True, False)
    tokenizer.go_on.set()
    for _ in range(2):
        connection.answers.get(timeout=60)
    assert (board.has(1), board.has(2)) == (False, False)


@pytest.mark.parametrize(("shared", "order"), [(True, [2, 1]), (False, [1, 2])])
def test_a_short_text_passes_a_long_one_if_threads_may_share_the_tokenizer(
    shared: bool, order: list[int], board: Board
) -> None:
    connection, tokenizer = Sent(), Held()
    calls = TokenizerCalls(connection, board)
    calls.start(tokenizer, shared=shared)
    calls.put(Tokenize(1, ["x" * (SHORT + 1)]), b"")
    assert tokenizer.begun.wait(60)
    calls.put(Tokenize(2, ["x"]), b"")
    tokenizer.go_on.set()
    assert [connection.answers.get(timeout=60).id for _ in order] == order


@pytest.mark.parametrize("shared", [True, False])
def test_work_ends_when_nothing_waits_for_the_answer(shared: bool, board: Board) -> None:
    connection, tokenizer = Sent(), Held()
    calls = TokenizerCalls(connection, board)
    calls.start(tokenizer, shared=shared)
    long = "x" * (SHORT + 1)
    calls.put(Tokenize(1, [long]), b"")
    assert tokenizer.begun.wait(60)
    calls.put(Locate(2, [long]), b"")
    calls.put(Tokenize(3, [long]), b"")
    for id_ in (1, 2, 99):  # the last is not known
        calls.abandon(id_)
    tokenizer.go_on.set()
    answers = [connection.answers.get(timeout=60) for _ in range(3)]
    assert [(one.id, type(one)) for one in answers] == [(1, Failed), (2, Failed), (3, Tokens)]
    calls.put(Tokenize(1, [long]), b"")  # nothing of the first is remembered
    assert isinstance(connection.answers.get(timeout=60), Tokens)


def test_llama_cpps_tokenizer_looks_between_texts_whether_to_go_on(tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    load = Load(spec=spec, backend=LLAMA_BACKENDS[0], vocabulary_only=True)
    tokenizer = open_tokenizer(load)
    for call in (Tokenize(1, ["a", "b", "c"]), Locate(2, ["a", "b", "c"])):
        seen: list[None] = []

        def check(seen: list[None] = seen) -> None:
            seen.append(None)
            if len(seen) == 3:
                raise EngineError("enough")

        assert answer_call(tokenizer, call, b"", check)[0] == Failed(call.id, "enough")
        assert len(seen) == 3
