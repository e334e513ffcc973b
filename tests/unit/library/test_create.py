"""Creating from models, uploads and files; quantising; copying."""

import hashlib
import json
from pathlib import Path

import pytest

from embedd.errors import (
    ConversionError,
    InvalidInputError,
    InvalidModelNameError,
    ModelLoadError,
    ModelNotFoundError,
    PullError,
    UnsupportedError,
)
from embedd.library import Library, ReportProgress
from embedd.library.quantize import FileType
from embedd.library.uploads import parse_uploads
from embedd.ollama_api import ProgressLine
from embedd.resolve import Resolver
from embedd.store.manifests import LICENSE, MODEL, ConfigBlob, make_layer
from tests.tiny_models import (
    change_json,
    find_parts,
    write_json,
    write_tiny_bert,
    write_tiny_checkpoint,
)
from tests.unit.library.conftest import Workshop
from tests.unit.stored import store_model

ZEROS = f"sha256:{'0' * 64}"


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def upload(workshop: Workshop, path: Path) -> str:
    with workshop.library.open_upload() as incoming:
        incoming.write(path.read_bytes())
        incoming.seal()
        return incoming.keep().digest


def test_a_model_made_from_a_model_shares_its_weights(workshop: Workshop) -> None:
    workshop.create("base", workshop.gguf(), parameters={"num_ctx": 32}, licenses=["MIT"])
    workshop.create("mine", "BASE", parameters={"query_prefix": "q: "}, licenses=["MIT", "Apache"])
    base, mine = workshop.library._find("base"), workshop.library._find("mine")
    assert base.manifest.of_type(MODEL) == mine.manifest.of_type(MODEL)
    assert len(mine.manifest.of_type(LICENSE)) == 2
    shown = workshop.library.show("mine")
    assert shown.license == "MIT\nApache"
    assert shown.parameters == f'{"num_ctx":<30} 32\n{"query_prefix":<30} "q: "'
    assert workshop.statuses[-2:] == ["writing manifest", "success"]


def test_a_model_made_from_a_pulled_one_is_no_longer_what_was_pulled(workshop: Workshop) -> None:
    config = ConfigBlob(model_format="gguf", made_from="a package")
    store_model(workshop.store, "pulled", workshop.gguf(), {"num_ctx": 9}, config)
    workshop.create("mine", "pulled")
    manifest = workshop.library._find("mine").manifest
    assert b"a package" not in workshop.store.blobs.read(manifest.config.digest, 9999)


def test_layers_that_are_not_understood_are_kept(workshop: Workshop) -> None:
    first = store_model(workshop.store, "base", workshop.gguf(), {})
    with workshop.store.open_for_change():
        layer = make_layer("application/x-other", workshop.store.blobs.add_bytes(b"other"))
        manifest = first.manifest
        manifest.layers.append(layer)
        workshop.store.commit(first.name, manifest)
    workshop.create("mine", "base")
    assert layer in workshop.library._find("mine").manifest.layers


class PullingLibrary(Library):
    def pull(self, text: str, report: ReportProgress, **_: object) -> bool:  # type: ignore[override]  # a fake with the arguments that create passes
        report(ProgressLine(status="pulling manifest"))
        if text == "gone":
            raise PullError("pull model manifest: file does not exist")
        if text == "base":
            store_model(self._store, text, self._gguf)
        report(ProgressLine(status="success"))
        return True

    _gguf: Path


def test_a_base_that_is_not_there_is_pulled_first(workshop: Workshop) -> None:
    library = PullingLibrary(workshop.store, Resolver(workshop.store), workshop.library._catalog)
    library._gguf = workshop.gguf()
    seen: list[str] = []
    library.create("mine", "base", report=lambda step: seen.append(step.status))
    assert seen[0] == "pulling manifest"
    assert seen.count("success") == 1
    with pytest.raises(PullError):
        library.create("mine", "gone")
    with pytest.raises(InvalidInputError, match="was deleted while it was used"):
        library.create("mine", "vanishing")


@pytest.mark.parametrize(("wanted", "kind"), [("q8_0", "Q8_0"), ("Q4_k_M", "Q8_0"), ("f32", "F32")])
def test_a_stored_model_is_quantized(workshop: Workshop, wanted: str, kind: str) -> None:
    workshop.create("base", workshop.gguf(weights="f16"))
    size = workshop.library._find("base").manifest.of_type(MODEL)[0].size
    workshop.create("small", "base", quantize=wanted)
    [line] = [status for status in workshop.statuses if status.startswith("quantizing")]
    steps = [step for step in workshop.seen if step.status == line]
    assert (
        line
        == f"quantizing F16 model to {FileType[{w.lower(): w for w in FileType}[wanted.lower()]]}"
    )
    assert {(step.digest, step.total) for step in steps} == {("0" * 19, size)}
    assert [step.completed for step in steps] == [None, size // 4, size // 2, size]
    assert workshop.library.show("small").details.quantization_level == kind
    assert len(workshop.verified) == 1
    assert not [name for name in workshop.files if name.startswith(".")]


def test_what_is_of_that_type_already_is_left_alone(workshop: Workshop) -> None:
    workshop.create("base", workshop.gguf(weights="f16"), quantize="f16")
    workshop.create("same", "base", quantize="F16")
    assert workshop.quantized == []
    assert workshop.library.is_shared("same")


def test_a_file_is_quantized_on_its_way_into_the_store(workshop: Workshop) -> None:
    workshop.create("small", workshop.gguf(weights="f16"), quantize="q4_K_S", licenses=["MIT"])
    assert [kind for _, kind in workshop.quantized] == [FileType.Q4_K_S]
    manifest = workshop.library._find("small").manifest
    assert len(workshop.files) == 3
    assert len(manifest.of_type(LICENSE)) == 1


def test_weights_that_are_quantized_cannot_be_again(workshop: Workshop) -> None:
    workshop.create("base", workshop.gguf(weights="q8_0"))
    before = workshop.files
    with pytest.raises(InvalidInputError, match=r"^quantization is only supported for F16, BF16"):
        workshop.create("small", "base", quantize="f16")
    assert workshop.files == before


def test_a_checkpoint_becomes_k_quants_by_way_of_f32(workshop: Workshop, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    workshop.create("small", folder, quantize="q4_k_m", parameters={"num_ctx": 5})
    assert workshop.statuses[:2] == ["converting model", "quantizing F32 model to Q4_K_M"]
    assert not [name for name in workshop.files if name.startswith(".")]
    assert workshop.library.show("small").parameters == f"{'num_ctx':<30} 5"


def test_prompts_and_sizes_of_a_checkpoint_become_parameters(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint", context=64)
    change_json(folder / "config.json", matryoshka_dimensions=[32, 16, 64])
    prompts = {"query": "q: ", "passage": "p: ", "Clustering": "c: ", "STS": ""}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    workshop.create("mine", folder, parameters={"query_prefix": "Q: "})
    assert Resolver(workshop.store).resolve("mine").parameters.raw == {
        "num_ctx": 32,
        "matryoshka": [16, 32],
        "query_prefix": "Q: ",
        "document_prefix": "p: ",
        "prompts": {"Clustering": "c: "},
    }


@pytest.mark.parametrize(
    ("similarity", "kinds", "noted"),
    [
        ("dot", ("Transformer", "Pooling"), True),
        ("dot", ("Transformer", "Pooling", "Normalize"), False),
        ("cosine", ("Transformer", "Pooling"), False),
        (None, ("Transformer", "Pooling"), False),
    ],
)
def test_lengths_that_count_and_are_normalised_are_reported(
    similarity: str | None, kinds: tuple[str, ...], noted: bool, workshop: Workshop, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    modules = json.loads((folder / "modules.json").read_text())[: len(kinds)]
    write_json(folder / "modules.json", modules)
    described = {"similarity_fn_name": similarity}
    write_json(folder / "config_sentence_transformers.json", described)
    workshop.create("mine", folder)
    assert any("compares vectors by dot" in status for status in workshop.statuses) is noted


def test_a_file_type_that_is_not_said_is_taken_from_the_tensors(workshop: Workshop) -> None:
    from tests.tiny_models import write_tiny_decoder

    path = write_tiny_decoder(workshop.root / "llm.gguf")
    data = path.read_bytes().replace(b"general.file_type", b"general.file_typo")
    path.write_bytes(data)
    workshop.create("llm", path, quantize="q8_0")
    assert "quantizing F32 model to Q8_0" in workshop.statuses


def test_a_split_model_cannot_be_quantized(workshop: Workshop, tmp_path: Path) -> None:
    write_tiny_bert(tmp_path / "base.gguf", split=8)
    parts = {part.name: upload(workshop, part) for part in find_parts(tmp_path / "base.gguf")}
    workshop.create("base", parts)
    with pytest.raises(InvalidInputError, match="is split"):
        workshop.create("small", "base", quantize="q8_0")
    workshop.create("copy", "base")
    assert len(workshop.library._find("copy").manifest.of_type(MODEL)) == len(parts)


def test_uploads_become_a_model(workshop: Workshop, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    files = {
        str(path.relative_to(folder)): upload(workshop, path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    workshop.create("mine", files)
    assert workshop.library.show("mine").capabilities == ["embedding"]
    gguf = upload(workshop, workshop.gguf(seed=3))
    workshop.create("other", {"model.gguf": gguf.replace("sha256:", "SHA256-".lower())})
    assert workshop.statuses[:2] == ["parsing GGUF", f"using existing layer {gguf}"]


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "../a", "a/../b", "./a", "a//b", "a\\b", "a\0b", "a\nb", "x" * 256, "ä" * 130],
)
def test_names_of_uploads_are_relative(workshop: Workshop, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^file path must be relative$"):
        parse_uploads({name: ZEROS}, workshop.store)


def test_an_upload_that_is_not_a_model_is_removed_unless_a_model_needs_it(
    workshop: Workshop,
) -> None:
    path = workshop.gguf()
    path.write_bytes(path.read_bytes()[:-50])
    digest = upload(workshop, path)
    with pytest.raises(ModelLoadError, match="truncated"):
        workshop.create("mine", {"a.gguf": digest})
    assert workshop.files == set()
    store_model(workshop.store, "broken", path)
    with pytest.raises(ModelLoadError, match="truncated"):
        workshop.create("mine", {"a.gguf": digest})
    assert workshop.store.blobs.has(digest)
    assert workshop.names == {"broken:latest"}


def test_a_name_is_checked_before_anything_is_done(workshop: Workshop) -> None:
    for name, source in (("bad name", "base"), ("mine", "bad name")):
        with pytest.raises(InvalidModelNameError):
            workshop.create(name, source)
    assert workshop.seen == []


def test_a_copy_shares_all_blobs(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf(), parameters={"num_ctx": 3})
    before = workshop.files
    workshop.library.copy("A", "hf.co/acme/b:Q8")
    assert workshop.files == before
    assert workshop.library.is_shared("a")
    first, second = workshop.library.list()
    assert {first.name, second.name} == {"a:latest", "hf.co/acme/b:Q8"}
    assert first.digest == second.digest
    workshop.library.copy("a", "a")
    with pytest.raises(ModelNotFoundError):
        workshop.library.copy("nope", "c")
    workshop.library.delete("a")
    assert workshop.files == before
    assert not workshop.library.is_shared("hf.co/acme/b:Q8")
    workshop.library.delete("hf.co/acme/b:Q8")
    assert workshop.files == set()


def test_models_with_another_pooling_are_others_in_memory(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf())
    workshop.create("b", "a", parameters={"pooling": "cls"})
    store_model(workshop.store, "broken", None)
    assert not workshop.library.is_shared("a")


def test_disk_use_counts_a_blob_once(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf())
    once = workshop.library.disk_use()
    workshop.library.copy("a", "b")
    assert workshop.library.disk_use() == once == workshop.library.list()[0].size


def upload_all(workshop: Workshop, folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): upload(workshop, path) for path in paths}


def test_what_a_model_was_made_of_is_removed_after_its_last_client(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    files = upload_all(workshop, folder)
    library = workshop.library
    # Two clients ask for every file before they create their models.
    for digest in [*files.values(), *files.values()]:
        assert library.has_blob(digest)
    library.create("one", files)
    assert all(workshop.store.blobs.has(digest) for digest in files.values())
    library.create("two", files)
    assert not any(workshop.store.blobs.has(digest) for digest in files.values())
    assert library.verify().problems == ()


def test_a_checkpoint_that_cannot_be_converted_is_named_as_it_was_uploaded_and_removed(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    (folder / "config.json").write_text("{")
    files = upload_all(workshop, folder)
    with pytest.raises(ConversionError, match=r"^config\.json is not JSON") as caught:
        workshop.library.create("mine", files)
    assert "embedd-" not in str(caught.value)
    assert list(workshop.store.blobs.digests()) == []


def test_in_a_store_of_another_program_uploads_stay(workshop: Workshop, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    files = upload_all(workshop, folder)
    workshop.store.layout.marker.unlink()
    workshop.library.create("mine", files)
    assert all(workshop.store.blobs.has(digest) for digest in files.values())
    with pytest.raises(UnsupportedError, match="not created by embedd"):
        workshop.library.prune()
