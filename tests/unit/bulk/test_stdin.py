"""A stream that may have to be left while it waits for data."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedd.bulk.stdin import Interruptible, ReadingStoppedError


@pytest.fixture
def pipe() -> Iterator[tuple[Interruptible, int]]:
    """A stream, and the descriptor of the end that writes to it."""
    reader, writer = os.pipe()
    with Interruptible(reader) as stream:
        yield stream, writer
    os.close(reader)


def test_what_is_written_is_read_to_its_end(pipe: tuple[Interruptible, int]) -> None:
    stream, writer = pipe
    os.write(writer, b"one\ntwo\nthr")
    os.write(writer, b"ee")
    os.close(writer)
    buffered = io.BufferedReader(stream)
    assert buffered.readline() == b"one\n"
    assert buffered.readlines() == [b"two\n", b"three"]


def test_a_read_that_waits_is_ended_and_data_that_is_there_is_not_lost(
    pipe: tuple[Interruptible, int],
) -> None:
    stream, writer = pipe
    buffered = io.BufferedReader(stream)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(buffered.readline)
        stream.interrupt()
        with pytest.raises(ReadingStoppedError):
            waiting.result()
    os.write(writer, b"late\n")
    assert buffered.readline() == b"late\n"
    with pytest.raises(ReadingStoppedError):
        buffered.readline()
    os.close(writer)
    assert buffered.readline() == b""
