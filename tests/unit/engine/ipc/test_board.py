"""The board outlives the process that wrote on it."""

import subprocess
import sys
import tempfile

from embedd.engine.ipc.board import PLACES, Board, Place

WRITER = """
import os, sys
from embedd.engine.ipc.board import Board
board = Board(int(sys.argv[1]))
board.mark(7)
os.abort()
"""


def test_what_a_process_marked_is_there_after_its_death() -> None:
    with tempfile.TemporaryFile() as file:
        board = Board.create(file)
        command = [sys.executable, "-c", WRITER, str(file.fileno())]
        code = subprocess.run(command, pass_fds=[file.fileno()], check=False).returncode
    assert code < 0
    assert board.has(7)
    assert not board.has(8)
    assert not board.has(7 + PLACES)
    board.close()


def test_a_later_batch_takes_the_place_of_a_far_earlier_one() -> None:
    with tempfile.TemporaryFile() as file:
        board = Board.create(file)
    board.mark(1)
    board.mark(1 + PLACES)
    assert board.has(1 + PLACES)
    assert not board.has(1)
    board.close()


def test_a_tokenizer_call_is_there_until_it_is_answered_and_hides_no_batch() -> None:
    with tempfile.TemporaryFile() as file:
        board = Board.create(file)
    board.mark(1)
    board.mark_tokenizing(Place.READER, 2)
    board.mark_tokenizing(Place.TOKENIZER, 1 + PLACES)
    assert [board.has(id_) for id_ in (1, 2, 1 + PLACES)] == [True] * 3
    board.mark_tokenizing(Place.READER, 0)
    assert [board.has(id_) for id_ in (1, 2, 1 + PLACES)] == [True, False, True]
    board.close()
