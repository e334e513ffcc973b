"""Manifests: Ollama's JSON, found in any letter case, whole or absent."""

import hashlib
import json
from pathlib import Path

import pytest

from embedd.errors import StoreError
from embedd.names import parse_model_name
from embedd.store.blobs import Blob
from embedd.store.disk import Disk
from embedd.store.layout import Layout
from embedd.store.manifests import (
    CONFIG_TYPE,
    MODEL,
    PARAMS,
    Layer,
    Manifest,
    ManifestStore,
    make_layer,
)

HEX = "0123456789abcdef" * 4
A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def make_manifest(digest: str = A) -> Manifest:
    config = make_layer(CONFIG_TYPE, Blob(digest=B, size=3))
    return Manifest(config=config, layers=[make_layer(MODEL, Blob(digest=digest, size=40))])


@pytest.fixture
def manifests(tmp_path: Path) -> ManifestStore:
    layout = Layout(root=tmp_path)
    layout.prepare(Disk())
    return ManifestStore(layout, Disk())


def write(root: Path, path: str, content: str) -> Path:
    target = root / "manifests" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    return target


def paths(root: Path) -> list[str]:
    folder = root / "manifests"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_manifest_has_the_form_that_ollama_writes(
    manifests: ManifestStore, tmp_path: Path
) -> None:
    manifests.write(parse_model_name("m"), make_manifest())
    data = (tmp_path / "manifests/registry.ollama.ai/library/m/latest").read_bytes()
    assert json.loads(data) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": B,
            "size": 3,
        },
        "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": A, "size": 40}],
    }
    stored = manifests.read(parse_model_name("m"))
    assert stored is not None
    assert stored.manifest == make_manifest()
    assert stored.digest == hashlib.sha256(data).hexdigest()
    assert stored.modified_at == stored.path.stat().st_mtime
    assert stored.manifest.size == 43
    assert stored.manifest.digests == {A, B}


def test_layers_of_other_kinds_survive_a_rewrite(manifests: ManifestStore, tmp_path: Path) -> None:
    layers = [
        {"mediaType": "application/vnd.ollama.image.tensor", "digest": A, "size": 1, "name": "w"},
        {"mediaType": "application/vnd.ollama.image.adapter", "digest": B, "size": 2, "from": "x"},
        {"mediaType": "application/vnd.ollama.image.params", "digest": B, "size": 2},
    ]
    content = {"schemaVersion": 2, "mediaType": "x", "config": {"digest": A, "size": 0}}
    path = write(tmp_path, "h/n/m/t", json.dumps({**content, "layers": layers, "new": 1}))
    name = parse_model_name("h/n/m:t")
    stored = manifests.read(name)
    assert stored is not None
    manifests.write(name, stored.manifest)
    assert json.loads(path.read_bytes()) == {**content, "layers": layers}
    assert stored.manifest.of_type(PARAMS) == [Layer(media_type=PARAMS, digest=B, size=2)]


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", '{"config":{},"layers":[]}', "\xff",
        json.dumps({"config": {"digest": "sha256:xyz", "size": 1}, "layers": []}),
        json.dumps({"config": {"digest": "../../x", "size": 1}, "layers": []}),
        json.dumps({"config": {"digest": A, "size": -1}, "layers": []}),
        json.dumps({"config": {"digest": A, "size": 1}, "layers": [{"digest": 5, "size": 1}]}),
    ],
)  # fmt: skip
def test_an_unreadable_manifest_is_named(
    manifests: ManifestStore, tmp_path: Path, content: str
) -> None:
    path = write(tmp_path, "registry.ollama.ai/library/m/latest", content)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        manifests.read(parse_model_name("m"))
    assert str(path) in str(caught.value)


def test_letter_case_does_not_matter_and_the_existing_spelling_stays(
    manifests: ManifestStore, tmp_path: Path
) -> None:
    manifests.write(parse_model_name("HF.co/Acme/Tiny:Q8_0"), make_manifest())
    found = manifests.find(parse_model_name("hf.CO/acme/tiny:q8_0"))
    assert found == parse_model_name("HF.co/Acme/Tiny:Q8_0")
    stored = manifests.read(parse_model_name("hf.co/ACME/tiny:Q8_0"))
    assert stored is not None
    assert stored.name == found
    assert manifests.write(parse_model_name("hf.co/acme/TINY:q8_0"), make_manifest(B)) == found
    assert manifests.write(parse_model_name("hf.co/acme/tiny:F16"), make_manifest()) == (
        parse_model_name("HF.co/Acme/Tiny:F16")
    )
    assert paths(tmp_path) == ["HF.co/Acme/Tiny/F16", "HF.co/Acme/Tiny/Q8_0"]


def test_the_exact_spelling_wins_and_dead_ends_are_left(
    manifests: ManifestStore, tmp_path: Path
) -> None:
    content = json.dumps({"config": {"digest": A, "size": 0}, "layers": []})
    for path in ("h/n/M/t", "h/n/m/t", "H/n/x/t", "h/N/y/t"):
        write(tmp_path, path, content)
    for text, expected in [
        ("h/n/m:t", "h/n/m:t"),
        ("h/n/M:T", "h/n/M:t"),
        ("h/n/x:t", "H/n/x:t"),
        ("H/n/y:t", "h/N/y:t"),
    ]:
        assert manifests.find(parse_model_name(text)) == parse_model_name(expected)


def test_what_is_not_there_is_not_found(manifests: ManifestStore, tmp_path: Path) -> None:
    (tmp_path / "manifests/registry.ollama.ai/library/folder/latest").mkdir(parents=True)
    for text in ("m", "folder", "folder:x", "h/n/m"):
        assert manifests.find(parse_model_name(text)) is None
        assert manifests.read(parse_model_name(text)) is None


def test_a_manifest_that_goes_while_it_is_read_is_not_there(
    manifests: ManifestStore, tmp_path: Path
) -> None:
    name = parse_model_name("m")
    path = tmp_path / "manifests" / Path(*name.path)
    path.parent.mkdir(parents=True)

    class Vanishing(ManifestStore):
        def find(self, _: object) -> object:  # type: ignore[override]  # a fake with the one method that is called
            return name

    assert Vanishing(Layout(root=tmp_path), Disk()).read(name) is None


def test_names_are_those_of_files_that_could_be_asked_for(
    manifests: ManifestStore, tmp_path: Path
) -> None:
    for path in ("h/n/m/t", "h/n/m/.hidden", "h/n/m/local", "h/n.n/m/t", ".embedd-00"):
        write(tmp_path, path, "")
    (tmp_path / "manifests/h/n/m/folder").mkdir()
    assert list(manifests.names()) == [parse_model_name("h/n/m:t")]


def test_deleting_removes_the_folders_left_empty(manifests: ManifestStore, tmp_path: Path) -> None:
    for text in ("a:1", "a:2", "hf.co/u/r"):
        manifests.write(parse_model_name(text), make_manifest())
    manifests.delete(parse_model_name("hf.co/u/r"))
    manifests.delete(parse_model_name("a:1"))
    assert paths(tmp_path) == ["registry.ollama.ai/library/a/2"]
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == ["registry.ollama.ai"]
    manifests.delete(parse_model_name("a:2"))
    assert list((tmp_path / "manifests").iterdir()) == []
