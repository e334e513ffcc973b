"""Arrays of a GGUF: the same elements as the gguf package reads, within the same limits."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import ModelLoadError
from embedd.gguf.arrays import read_arrays, read_raw_arrays
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert, write_tiny_decoder

TOKENS = b"tokenizer.ggml.tokens"


def test_arrays_are_those_of_the_file(tmp_path: Path) -> None:
    path = write_tiny_decoder(tmp_path / "llm.gguf")
    arrays = read_arrays(path)
    reader = gguf.GGUFReader(path)
    for key, value in arrays.items():
        assert value == reader.fields[key].contents()
    assert "tokenizer.ggml.merges" in arrays
    bert = write_tiny_bert(tmp_path / "bert.gguf")
    assert len(read_arrays(bert)["tokenizer.ggml.tokens"]) == len(TINY_VOCABULARY)


def test_a_vocabulary_longer_than_one_read_is_whole(tmp_path: Path) -> None:
    """Strings lie across the ends of the chunks that are read, at every place of a string."""
    tokens = [f"{'t' * (number % 97)}{number}ü" for number in range(60_000)]
    scores = np.arange(300_000, dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "bert")
    writer.add_token_list(tokens)
    writer.add_array("empty", [])
    writer.add_array("scores", scores.tolist())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    assert (tmp_path / "a.gguf").stat().st_size > 4 << 20
    arrays = read_arrays(tmp_path / "a.gguf")
    assert arrays == {"tokenizer.ggml.tokens": tokens, "scores": scores.tolist()}


def test_raw_arrays_are_the_bytes_of_the_file_and_those_that_were_asked_for(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "bert")
    writer.add_array("strings", ["ab", b"\xff\xfe", ""])
    writer.add_array("numbers", [1, -2])
    writer.add_array("others", ["ab"] * 5)
    writer.add_array("last", [1.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    found = read_raw_arrays(tmp_path / "a.gguf", ["strings", "numbers", "last", "missing"])
    assert found.strings == {"strings": [b"ab", b"\xff\xfe", b""]}
    assert found.numbers == {
        "numbers": struct.pack("<2i", 1, -2),
        "last": struct.pack("<f", 1.5),
    }
    with pytest.raises(ModelLoadError, match="nope cannot be read"):
        read_raw_arrays(tmp_path / "nope", ["strings"])


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "a.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(ModelLoadError, match=r"a\.gguf: the GGUF is truncated"):
        read_arrays(path)
    path.write_bytes(b"no GGUF")
    with pytest.raises(ModelLoadError, match=r"a\.gguf: not a GGUF"):
        read_arrays(path)
    with pytest.raises(ModelLoadError, match=r"nope cannot be read: No such file"):
        read_arrays(tmp_path / "nope")


@pytest.mark.parametrize(
    ("skipped", "number", "reason"),
    [
        (8, 1 << 60, "elements in 'tokenizer.ggml.tokens', at most"),
        (16, 1 << 60, "bytes in a string, at most"),
        (16, (128 << 20) - 1, "bytes of header, at most"),
    ],
)
def test_lengths_beyond_the_limits_are_refused(
    skipped: int, number: int, reason: str, tmp_path: Path
) -> None:
    path = write_tiny_bert(tmp_path / "a.gguf")
    data = path.read_bytes()
    at = data.index(TOKENS) + len(TOKENS) + skipped
    path.write_bytes(data[:at] + struct.pack("<Q", number) + data[at + 8 :])
    with pytest.raises(ModelLoadError, match=reason):
        read_arrays(path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("arrays") / "bert.gguf")


@given(data=st.data())
def test_a_damaged_file_gives_arrays_or_a_load_error(bert: Path, data: st.DataObject) -> None:
    whole = bytearray(bert.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bert.with_name("damaged.gguf")
    damaged.write_bytes(whole)
    try:
        arrays = read_arrays(damaged)
    except ModelLoadError:
        return
    assert all(isinstance(elements, list) and elements for elements in arrays.values())
