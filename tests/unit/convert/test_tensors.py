"""Safetensors files are read without loading them, and never trusted."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.convert.tensors import INDEX, WEIGHTS, read_checkpoint_index, read_index
from embedd.errors import ConversionError
from tests.tiny_models import change_json, write_json, write_safetensors, write_shards

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5,
    "vector": np.array([0.5, -1.0], np.float32),
    "ids": np.arange(4, dtype=np.int64),
}


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_of_each_float_type_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    write_safetensors(tmp_path / "a", TENSORS, dtype=dtype)
    index = read_index(tmp_path / "a")
    assert {name: (t.dtype, t.shape) for name, t in index.items()} == {
        "matrix": (dtype, (2, 3)),
        "vector": (dtype, (2,)),
        "ids": ("I64", (4,)),
    }
    for name in ("matrix", "vector"):
        np.testing.assert_array_equal(index[name].read(), TENSORS[name])


def test_values_are_a_view_into_the_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", TENSORS)
    array = read_index(tmp_path / "a")["matrix"].read()
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_an_empty_tensor_is_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a", {"none": entry([0, 3], 0, 0)})
    assert read_index(path)["none"].read().shape == (0, 3)


@pytest.mark.parametrize("dtype", ["I64", "F64", "F8_E4M3"])
def test_a_tensor_that_is_not_of_a_float_type_is_refused(tmp_path: Path, dtype: str) -> None:
    size = 1 if dtype.startswith("F8") else 8
    path = write_raw(tmp_path / "a", {"w": entry([1], 0, size, dtype)}, bytes(size))
    with pytest.raises(ConversionError, match=f"'w' has type {dtype}: only F32, F16 and BF16"):
        read_index(path)["w"].read()


def test_a_file_that_was_deleted_after_indexing_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", TENSORS)
    tensor = read_index(tmp_path / "a")["matrix"]
    (tmp_path / "a").unlink()
    with pytest.raises(ConversionError, match="a cannot be read"):
        tensor.read()


REFUSALS: dict[str, tuple[object, int, str]] = {
    "no header": (b"", 0, "invalid JSON in header"),
    "not JSON": (b"{", 0, "invalid JSON in header"),
    "not UTF-8": (b'{"\xff": 1}', 0, "invalid UTF-8 in header"),
    "not an object": ([], 0, "invalid JSON in header: invalid type: sequence"),
    "name twice": (b'{"a": 1, "a": 2}', 0, "invalid JSON in header"),
    "deep": (b"[" * 100_000, 0, "invalid JSON in header"),
    "deep inside": (b'{"a": ' + b"[" * 100_000, 0, "invalid JSON in header"),
    "no entry": ({"w": 1}, 0, "invalid type: integer `1`, expected struct TensorInfo"),
    "no dtype": ({"w": {"shape": [1], "data_offsets": [0, 4]}}, 4, "missing field `dtype`"),
    "three offsets": (
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}},
        4,
        "invalid length 3, expected 2 elements",
    ),
    "unknown type": ({"w": entry([1], 0, 1, "F7")}, 1, "unknown variant `F7`"),
    "negative length": ({"w": entry([-1, -1], 0, 4)}, 4, "integer `-1`, expected usize"),
    "fractional length": ({"w": entry([1.0], 0, 4)}, 4, "floating point `1.0`, expected usize"),  # type: ignore[list-item]  # wrong on purpose
    "too many elements": ({"w": entry([2**62, 2**62], 0, 4)}, 4, "overflow computing"),
    "too short": ({"w": entry([2], 0, 4)}, 4, "invalid shape, data type, or offset"),
    "backwards": ({"w": entry([1], 4, 0)}, 4, "invalid offset for tensor `w`"),
    "before the data": ({"w": entry([1], -4, 0)}, 4, "integer `-4`, expected usize"),
    "beyond the file": ({"w": entry([2**40], 0, 2**42)}, 4, "file not fully covered"),
    "gap": ({"w": entry([1], 4, 8)}, 8, "invalid offset for tensor `w`"),
    "overlap": ({"v": entry([2], 0, 8), "w": entry([1], 4, 8)}, 8, "invalid offset for tensor"),
    "data left over": ({"w": entry([1], 0, 4)}, 5, "file not fully covered"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_damaged_file_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    header, size, reason = REFUSALS[case]
    path = write_raw(tmp_path / "damaged", header, bytes(size))
    with pytest.raises(ConversionError) as caught:
        read_index(path)
    assert reason in str(caught.value)
    assert f"{path} is damaged: " in str(caught.value)


@pytest.mark.parametrize(
    ("length", "reason"),
    [(3, "invalid header length"), (2**20, "invalid header length"), (2**63, "header too large")],
)
def test_a_header_longer_than_the_file_is_refused(length: int, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(ConversionError, match=f"a is damaged: {reason}"):
        read_index(tmp_path / "a")


def test_a_header_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as stream:
        stream.write(struct.pack("<Q", 100_000_001))
        stream.truncate(100_000_100)
    with pytest.raises(ConversionError, match="a is damaged: header too large"):
        read_index(tmp_path / "a")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be read"):
        read_index(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"a cannot be read: No such file or directory$"):
        read_index(tmp_path / "a")


@given(st.data())
def test_every_prefix_of_a_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_safetensors(folder / "whole", TENSORS)
    whole = (folder / "whole").read_bytes()
    end = data.draw(st.integers(0, len(whole) - 1))
    (folder / "prefix").write_bytes(whole[:end])
    with pytest.raises(ConversionError):
        read_index(folder / "prefix")


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, shards=3)
    index = read_checkpoint_index(tmp_path)
    assert index.keys() == TENSORS.keys()
    assert len({tensor.path for tensor in index.values()}) == 3
    np.testing.assert_array_equal(index["matrix"].read(), TENSORS["matrix"])


def test_one_file_is_preferred_to_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, shards=2)
    write_shards(tmp_path, TENSORS, shards=1)
    assert {t.path.name for t in read_checkpoint_index(tmp_path).values()} == {WEIGHTS}


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConversionError, match="save the checkpoint in the safetensors format"):
        read_checkpoint_index(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, [], {"w": 1}, {"w": "../a"}, {"w": "/a"}, {"w": ""}, {"w": ".."}]
)
def test_an_index_that_does_not_name_files_beside_it_is_refused(
    weight_map: object, tmp_path: Path
) -> None:
    write_json(tmp_path / INDEX, {"weight_map": weight_map})
    with pytest.raises(ConversionError, match="no weight_map from tensors to file names"):
        read_checkpoint_index(tmp_path)


def test_an_index_that_lacks_a_tensor_of_a_part_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, shards=2)
    change_json(tmp_path / INDEX, weight_map={"matrix": "model-00001-of-00002.safetensors"})
    with pytest.raises(ConversionError, match=r"holds tensor 'ids', which .* does not list"):
        read_checkpoint_index(tmp_path)


def test_an_index_that_lists_a_tensor_of_no_part_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, shards=2)
    weight_map = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    change_json(tmp_path / INDEX, weight_map={**weight_map, "more": weight_map["matrix"]})
    with pytest.raises(ConversionError, match="lists tensor 'more', which no part holds"):
        read_checkpoint_index(tmp_path)
