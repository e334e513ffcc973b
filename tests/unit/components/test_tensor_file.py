"""Headers of GGUF and safetensors files are read within limits, whatever their bytes are."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.components import safetensors_header
from embedd.components.tensor_file import read_tensor_file, read_tensors, weight_type
from embedd.errors import ModelLoadError
from tests.image_files import KLEIN, write_gguf, write_safetensors

NAME = "text_encoders.llm." + "x" * 100  # longer than llama.cpp's names


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("write", "kind"), [(write_gguf, "gguf"), (write_safetensors, "safetensors")]
)
def test_shapes_have_the_row_length_first_in_both_formats(
    write: object, kind: str, tmp_path: Path
) -> None:
    assert callable(write)
    file = read_tensor_file(write(tmp_path / "a", {NAME: (3, 5), "b": (7,)}))
    assert file.format == kind
    assert file.shapes == {NAME: (3, 5), "b": (7,)}
    assert file.parameter_count == 22
    assert weight_type([file]) == "F16"


def test_the_type_of_most_weights_counts_and_integers_never_do() -> None:
    header = {
        "a": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
        "c": {"dtype": "I64", "shape": [99], "data_offsets": [24, 816]},
    }
    file = read_tensors(io.BytesIO(safetensors(header, bytes(816))), size=None)
    assert weight_type([file]) == "F8_E4M3"
    assert weight_type([]) == ""


class Generous(io.RawIOBase):
    """Gives more bytes than were asked for, as a range of a remote file does."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int = -1) -> bytes:
        given, self.data = self.data[: size + 100], self.data[size + 100 :]
        return given


@pytest.mark.parametrize("write", [write_gguf, write_safetensors])
def test_a_stream_may_give_more_than_was_asked_for(write: object, tmp_path: Path) -> None:
    assert callable(write)
    path = write(tmp_path / "a", KLEIN["diffusion"])
    file = read_tensors(Generous(path.read_bytes()), size=path.stat().st_size)  # type: ignore[arg-type]  # only `read` is needed
    assert file.shapes == dict(KLEIN["diffusion"])


TENSOR = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
DAMAGED = {
    "empty": (b"", "begins with b''"),
    "random": (b"\xff" * 64, "begins with"),
    "a pickle": (b"\x80\x02ctorch" + bytes(60), "is a pickle|a pickle"),
    "a zip archive": (b"PK\x03\x04" + bytes(60), "a pickle"),
    "a header that ends early": (safetensors({"a": TENSOR})[:20], "its header has"),
    "a header that is not JSON": (safetensors(b"{nonsense}"), "header .* is wrong"),
    "a header that is a list": (safetensors(b"[1,2]"), "header .* is wrong"),
    "a tensor without offsets": (
        safetensors({"a": {"dtype": "F16", "shape": [1]}}), "header .* is wrong"
    ),
    "data that end early": (safetensors({"a": TENSOR}, bytes(11)), "tensor 'a' ends at byte 12"),
    "data of another size": (
        safetensors({"a": {**TENSOR, "data_offsets": [0, 10]}}, bytes(12)), "bytes 0 to 10"
    ),
    "a negative shape": (
        safetensors({"a": {**TENSOR, "shape": [-2, -3]}}, bytes(12)), r"shape \[-2, -3\]"
    ),
    "data before the beginning": (
        safetensors({"a": {**TENSOR, "data_offsets": [-12, 0]}}, bytes(12)), "bytes -12 to 0"
    ),
    "a GGUF that ends early": (b"GGUF\x03\x00\x00\x00" + bytes(3), "truncated"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_an_error_that_names_it(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=reason) as raised:
        read_tensor_file(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nothing here cannot be read"):
        read_tensor_file(tmp_path / "nothing here")


def test_a_file_with_too_many_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_ENTRIES", 2)
    header = {str(number): {**TENSOR, "shape": [6]} for number in range(3)}
    with pytest.raises(ModelLoadError, match="3 tensors, at most 2"):
        read_tensors(io.BytesIO(safetensors(header, bytes(12))))


@given(st.binary(max_size=200))
def test_no_bytes_give_another_error_than_that_the_file_cannot_be_loaded(data: bytes) -> None:
    for start in (b"", b"GGUF\x03\x00\x00\x00", len(data).to_bytes(8, "little")):
        try:
            file = read_tensors(io.BytesIO(start + data), size=len(start) + len(data))
        except ModelLoadError:
            continue
        assert file.parameter_count >= 0
