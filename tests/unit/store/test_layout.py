"""Where things lie, and which stores embedd may tidy up."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError, StoreError
from embedd.names import parse_model_name
from embedd.store.disk import Disk
from embedd.store.layout import Layout, parse_digest

HEX = "0123456789abcdef" * 4


def test_manifests_and_blobs_lie_where_ollama_looks_for_them() -> None:
    layout = Layout(root=Path("/s"))
    path = layout.manifest(parse_model_name("hf.co/u/r:Q8_0"))
    assert path == Path("/s/manifests/hf.co/u/r/Q8_0")
    assert layout.blob(f"sha256:{HEX}") == Path(f"/s/blobs/sha256-{HEX}")


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256-{HEX}", f"sha256:{HEX.upper()}"])
def test_a_digest_has_one_normal_form(text: str) -> None:
    assert parse_digest(text) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    ["", HEX, f"sha256:{HEX[1:]}", f"sha256:{HEX}0", f"sha512:{HEX}", f"sha256:{'g' * 64}",
     f"sha256:{HEX}\n", f"sha256-{HEX}-partial", f"../sha256-{HEX}", f"sha256:{'٣' * 64}"],
)  # fmt: skip
def test_an_invalid_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^invalid digest format$"):
        parse_digest(text)


@given(st.text())
def test_no_digest_leaves_the_folder_of_the_blobs(text: str) -> None:
    layout = Layout(root=Path("/s"))
    with contextlib.suppress(InvalidInputError):
        assert layout.blob(text).parent == layout.blobs


@pytest.mark.parametrize("exists", [True, False])
def test_a_new_store_gets_the_marker(tmp_path: Path, exists: bool) -> None:
    layout = Layout(root=tmp_path / "a" / "models")
    if exists:
        layout.root.mkdir(parents=True)
    assert not layout.is_own()
    layout.prepare(Disk())
    layout.prepare(Disk())
    assert layout.is_own()
    assert layout.marker.read_text() == '{"format":1}'
    assert {path.name for path in layout.root.iterdir()} == {
        "blobs", "manifests", "embedd-store.json"
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["blobs", "manifests"])
def test_a_store_that_was_there_before_gets_no_marker(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    layout = Layout(root=tmp_path)
    layout.prepare(Disk())
    assert not layout.is_own()
    assert not layout.marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"format":2}', "newer embedd"), ("{", "cannot be read"), ("{}", "cannot be read")],
)
def test_a_marker_that_is_not_understood_forbids_changes(
    tmp_path: Path, content: str, message: str
) -> None:
    layout = Layout(root=tmp_path)
    layout.marker.write_text(content)
    with pytest.raises(StoreError, match=message) as caught:
        layout.prepare(Disk())
    assert str(layout.marker) in str(caught.value)


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the model store .*file"):
        Layout(root=tmp_path / "file").prepare(Disk())
