"""Frames: what one end sends the other reads, and broken frames are refused."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc import framing, messages
from embedd.engine.spec import ModelInfo
from embedd.errors import EngineError
from embedd.types import TokenIds
from tests.unit.engine.fake_worker import INFO, SPEC

SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    bytes: st.binary(),
    float: st.floats(allow_nan=False),
    int: st.integers(-(2**63), 2**64 - 1),
    str: st.text(st.characters(exclude_categories=["Cs"])),
    NoneType: st.none(),
    Path: st.text(st.characters(exclude_categories=["Cs"])).map(Path),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold."""
    arguments = get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if get_origin(kind) is list:
        return st.lists(values_of(arguments[0]), max_size=5)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{name: values_of(one) for name, one in hints.items()})
    if get_origin(kind) is tuple:
        return st.lists(values_of(arguments[0]), max_size=5).map(tuple)
    if get_origin(kind) is UnionType:
        return st.one_of([values_of(one) for one in arguments])
    return st.sampled_from(kind)


def messages_of(kinds: Any) -> st.SearchStrategy[Any]:
    """Any message of these kinds."""
    return st.one_of(
        [
            st.builds(
                kind, **{one.name: values_of(one.type) for one in msgspec.structs.fields(kind)}
            )
            for kind in kinds
        ]
    )


TOKEN_ARRAYS = st.none() | st.lists(st.integers(-(2**31), 2**31 - 1)).map(
    lambda ids: np.array(ids, np.int32)
)
VECTOR_ARRAYS = st.none() | arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5),
    elements=st.floats(width=32),
)


def split(frame: bytes) -> tuple[bytes, bytes]:
    """Header and array, as a reader sees them."""
    header, array = framing.parse_prefix(frame[: framing.PREFIX.size])
    body = frame[framing.PREFIX.size :]
    assert len(body) == header + array
    return body[:header], body[header:]


@given(message=messages_of(get_args(messages.ToWorker)), array=TOKEN_ARRAYS)
def test_what_the_server_sends_the_worker_reads(
    message: messages.ToWorker, array: TokenIds | None
) -> None:
    header, payload = split(b"".join(framing.make_frame(message, array)))
    assert messages.parse_to_worker(header) == message
    assert payload == (b"" if array is None else array.tobytes())


@given(message=messages_of(get_args(messages.FromWorker)), array=VECTOR_ARRAYS)
def test_what_the_worker_sends_the_server_reads(
    message: messages.FromWorker, array: np.ndarray[tuple[int, int], np.dtype[np.float32]] | None
) -> None:
    header, payload = split(b"".join(framing.make_frame(message, array)))
    assert messages.parse_from_worker(header) == message
    assert payload == (b"" if array is None else array.tobytes())


def test_a_view_that_is_not_contiguous_arrives_in_order() -> None:
    ids = np.arange(10, dtype=np.int32)[::2]
    _, payload = split(b"".join(framing.make_frame(messages.Tokens(1, [5]), ids)))
    assert np.frombuffer(payload, np.int32).tolist() == [0, 2, 4, 6, 8]


def test_a_frame_beyond_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    message, ids = messages.Tokens(1, [8]), np.zeros(8, np.int32)
    length = len(b"".join(framing.make_frame(message, ids))) - 4
    monkeypatch.setattr(framing, "MAX_FRAME", length)
    framing.make_frame(message, ids)
    monkeypatch.setattr(framing, "MAX_FRAME", length - 1)
    with pytest.raises(EngineError, match=str(length)):
        framing.make_frame(message, ids)


@given(prefix=st.binary(min_size=8, max_size=8))
def test_no_prefix_makes_a_reader_wait_for_more_than_a_frame(prefix: bytes) -> None:
    try:
        header, array = framing.parse_prefix(prefix)
    except EngineError:
        return
    assert 0 <= header <= framing.MAX_FRAME
    assert 0 <= array <= framing.MAX_FRAME
    assert header + array <= framing.MAX_FRAME


@pytest.mark.parametrize(
    ("length", "header"),
    [(framing.MAX_FRAME + 1, 1), (2**32 - 1, 2**32 - 1), (10, 7), (3, 0), (0, 0)],
    ids=["too long", "both absurd", "header longer than the frame", "shorter than itself", "zero"],
)
def test_contradicting_lengths_are_refused(length: int, header: int) -> None:
    with pytest.raises(EngineError, match="broken frame"):
        framing.parse_prefix(framing.PREFIX.pack(length, header))


def test_the_largest_frame_is_accepted() -> None:
    header, array = framing.parse_prefix(framing.PREFIX.pack(framing.MAX_FRAME, 100))
    assert header == 100
    assert header + array + 4 == framing.MAX_FRAME


@pytest.mark.parametrize("field", [field.name for field in fields(ModelInfo)])
def test_facts_of_the_wrong_type_are_refused(field: str) -> None:
    """A worker that sends them may have overwritten its own memory."""
    header = msgspec.msgpack.decode(messages.to_header(messages.Ready(1, INFO)))
    assert messages.parse_from_worker(msgspec.msgpack.encode(header)) == messages.Ready(1, INFO)
    header["info"][field] = [[]]
    with pytest.raises(msgspec.ValidationError, match=field):
        messages.parse_from_worker(msgspec.msgpack.encode(header))


@pytest.mark.parametrize("field", ["width", "special_tokens", "engine"])
def test_facts_that_are_missing_are_refused(field: str) -> None:
    header = msgspec.msgpack.decode(messages.to_header(messages.Ready(1, INFO)))
    del header["info"][field]
    with pytest.raises(msgspec.ValidationError, match=field):
        messages.parse_from_worker(msgspec.msgpack.encode(header))


def test_a_path_that_is_not_text_is_refused() -> None:
    load = messages.Load(spec=SPEC, backend=LLAMA_BACKENDS[0])
    header = msgspec.msgpack.decode(messages.to_header(load))
    assert messages.parse_to_worker(msgspec.msgpack.encode(header)) == load
    header["spec"]["path"] = 7
    with pytest.raises(msgspec.ValidationError, match="path"):
        messages.parse_to_worker(msgspec.msgpack.encode(header))


def test_what_a_message_cannot_hold_is_not_sent() -> None:
    with pytest.raises(NotImplementedError, match="cannot hold object"):
        messages.to_header(messages.Failed(1, object()))  # type: ignore[arg-type]  # wrong on purpose
