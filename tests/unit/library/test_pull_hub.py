"""Pulling from the hub: what is chosen, refused, taken from the repository, and stored."""

import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import llama_cpp
import msgspec
import pytest

from embedd.catalog.catalog import Catalog
from embedd.catalog.recipe import Recipe
from embedd.errors import EmbeddError, ModelLoadError, PullError, UnsupportedError
from embedd.gguf.header import read_header_file
from embedd.library import Library
from embedd.library.architectures import ARCHITECTURES
from embedd.ollama_api import ProgressLine
from embedd.options import Options
from embedd.resolve import ResolvedModel, Resolver
from embedd.store.hub import Hub
from embedd.store.manifests import LICENSE, ConfigBlob
from embedd.store.partial import STOPPED, Partial
from embedd.store.remote import RemoteBlob, RemoteFile, Repository
from embedd.store.store import Store
from embedd.types import Pooling
from tests.loopback_hub import digest_of
from tests.tiny_models import find_parts, write_tiny_bert, write_tiny_decoder

NAME = "hf.co/acme/tiny-GGUF"


@dataclass
class FakeHub(Hub):
    """Repositories in memory; counts the calls. The real hub has tests of its own."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = "c1"
    license: str = ""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    revisions: list[str | None] = field(default_factory=list)
    break_at: int | None = None

    def look_up(self, repository: str, revision: str | None = None) -> Repository:
        self.revisions.append(revision)
        if repository != "acme/tiny-GGUF":
            raise PullError("pull model manifest: file does not exist")
        files = tuple(RemoteFile(path=path, size=len(data)) for path, data in self.files.items())
        return Repository(name=repository, commit=self.commit, files=files, license=self.license)

    def locate(self, repository: Repository, path: str) -> RemoteBlob:
        data = self.files[path]
        return RemoteBlob(
            repository=repository.name,
            commit=repository.commit,
            path=path,
            size=len(data),
            digest=digest_of(data),
        )

    def read(self, repository: Repository, path: str, limit: int) -> bytes:
        return self.files[path][:limit]

    def read_range(self, blob: RemoteBlob, start: int, size: int) -> bytes:
        self.ranges.append((start, size))
        return self.files[blob.path][start : start + size]

    def stream(self, blob: RemoteBlob, partial: Partial) -> None:
        self.streamed.append(blob.path)
        data = self.files[blob.path]
        partial.write(data[partial.done : self.break_at])
        if self.break_at is not None:
            raise PullError("max retries exceeded: it broke off")


@dataclass
class Place:
    """A store, a library over it, and the hub that it pulls from."""

    root: Path
    source: FakeHub = field(default_factory=FakeHub)
    recipes: list[Recipe] = field(default_factory=list)
    seen: list[ProgressLine] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.root / "models")

    def library(self) -> Library:
        store = self.store
        catalog = Catalog(self.recipes)
        return Library(store, Resolver(store), catalog, open_hub=lambda: self.source)

    def pull(self, name: str = NAME) -> bool:
        self.seen.clear()
        return self.library().pull(name, self.seen.append)

    def model(self, name: str = NAME) -> ResolvedModel:
        return Resolver(self.store).resolve(name)

    def config(self, name: str = NAME) -> ConfigBlob:
        stored = self.store.manifests.read(self.model(name).name)
        assert stored is not None
        data = self.store.blobs.read(stored.manifest.config.digest, 1 << 20)
        return msgspec.json.decode(data, type=ConfigBlob)

    @property
    def files(self) -> list[str]:
        models = self.root / "models"
        return sorted(path.name for path in models.rglob("*") if path.is_file())

    def bert(self, **options: object) -> bytes:
        return write_tiny_bert(self.root / "made.gguf", **options).read_bytes()  # type: ignore[arg-type]  # keyword arguments, passed on


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.source.files = {"tiny-Q8_0.gguf": place.bert(), "tiny-f16.gguf": place.bert(seed=1)}
    return place


def recipe(**changes: object) -> Recipe:
    hub = {"source": "hub", "repository": "acme/tiny-GGUF", "file": "tiny-Q8_0.gguf"}
    base = {
        "name": "tiny", "description": "Tiny", "license": "MIT", "pooling": "cls",
        "context_length": 64, "num_ctx": 48, "dimensions": 32,
        "prompts": {"query": "q: "}, "tags": {"latest": hub | changes},
    }  # fmt: skip
    return msgspec.convert(base, Recipe)


def test_a_model_of_the_hub_is_pulled_and_reported_in_the_order_of_the_contract(
    place: Place,
) -> None:
    place.source.license = "mit"
    assert place.pull()
    model = place.model()
    data = place.source.files["tiny-Q8_0.gguf"]
    assert model.spec.path.read_bytes() == data
    assert model.capabilities == ("embedding",)
    assert place.config().made_from == "hf.co/acme/tiny-GGUF@c1/tiny-Q8_0.gguf"
    stored = place.store.manifests.read(model.name)
    assert stored is not None
    layers = [*stored.manifest.layers, stored.manifest.config]
    short = [f"pulling {layer.digest[7:19]}" for layer in layers]
    assert list(dict.fromkeys(step.status for step in place.seen)) == [
        "pulling manifest", *short, "verifying sha256 digest", "writing manifest", "success",
    ]  # fmt: skip
    first, *_, last = [step for step in place.seen if step.status == short[0]]
    assert first == ProgressLine(status=short[0], digest=layers[0].digest, total=len(data))
    assert last.completed == len(data)
    license_blob = stored.manifest.of_type(LICENSE)[0]
    assert place.store.blobs.read(license_blob.digest, 100) == b"mit"


def test_pulling_again_fetches_nothing_and_a_new_commit_of_the_same_file_changes_nothing(
    place: Place,
) -> None:
    place.pull()
    place.source.commit = "c2"
    before = place.files
    place.source.ranges.clear()
    assert not place.pull()
    assert place.source.streamed == ["tiny-Q8_0.gguf"]
    assert place.source.ranges == []
    assert place.files == before
    assert place.config().made_from.startswith("hf.co/acme/tiny-GGUF@c1/")
    whole = [step for step in place.seen if step.total is not None]
    assert whole
    assert all(step.completed == step.total for step in whole)


def test_a_file_that_changed_upstream_is_fetched_and_the_old_one_removed(place: Place) -> None:
    place.pull()
    old = place.model().spec.path
    place.source.files["tiny-Q8_0.gguf"] = place.bert(seed=7)
    place.source.commit = "c2"
    assert place.pull()
    assert place.config().made_from == "hf.co/acme/tiny-GGUF@c2/tiny-Q8_0.gguf"
    assert "removing unused layers" in [step.status for step in place.seen]
    assert not old.exists()


def test_tags_and_hosts_name_files(place: Place) -> None:
    place.pull("huggingface.co/acme/tiny-GGUF:F16")
    assert place.source.streamed == ["tiny-f16.gguf"]
    with pytest.raises(
        PullError,
        match=r"file does not exist: acme/tiny-GGUF has nothing for .*: it has tiny-Q8_0.gguf",
    ):
        place.pull(f"{NAME}:Q4_K_M")


def test_what_breaks_off_goes_on_and_its_header_is_not_asked_for_again(place: Place) -> None:
    data = place.source.files["tiny-Q8_0.gguf"]
    place.source.break_at = len(data) - 1000
    with pytest.raises(PullError, match="broke off"):
        place.pull()
    assert [name for name in place.files if "partial" in name]
    assert place.library().list() == []
    place.source.break_at = None
    place.source.ranges.clear()
    place.pull()
    assert place.source.ranges == []
    assert place.model().spec.path.read_bytes() == data
    assert not [name for name in place.files if "partial" in name]


def test_a_spoilt_beginning_does_not_stand_in_the_way(place: Place) -> None:
    """What an earlier download left may be anything; the digest decides, and it is deleted."""
    data = place.source.files["tiny-Q8_0.gguf"]
    place.store.prepare()
    blob = place.store.layout.blob(digest_of(data))
    blob.with_name(f"{blob.name}-partial").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(PullError, match="digest mismatch"):
        place.pull()
    place.pull()
    assert place.model().spec.path.read_bytes() == data


def cut(data: bytes) -> bytes:
    return data[:-100]


def lie(data: bytes) -> bytes:
    """A header that claims more keys than the file could hold."""
    return data[:16] + struct.pack("<Q", 60_000) + data[24:]


def zip_up(_: bytes) -> bytes:
    return b"PK\x03\x04" + bytes(1000)


def no_length(data: bytes) -> bytes:
    return data.replace(b"bert.context_length", b"bert.context_lengtX")


def other_kind(data: bytes) -> bytes:
    return data.replace(b"\x04\0\0\0\0\0\0\0bert", b"\x04\0\0\0\0\0\0\0burt", 1).replace(
        b"bert.", b"burt."
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "truncated"),
        (lie, "cannot be used"),
        (zip_up, "not a GGUF file"),
        (no_length, "has no bert.context_length"),
        (other_kind, "architecture burt is not known"),
    ],
)
def test_a_useless_file_is_refused_before_its_bytes_are_fetched(
    place: Place, damage: Callable[[bytes], bytes], message: str
) -> None:
    place.source.files = {"tiny-Q8_0.gguf": damage(place.source.files["tiny-Q8_0.gguf"])}
    with pytest.raises(ModelLoadError, match=message) as caught:
        place.pull()
    assert "tiny-Q8_0.gguf of acme/tiny-GGUF" in str(caught.value)
    assert place.source.streamed == []
    assert place.files == []


def test_ollamas_own_packages_are_refused(place: Place) -> None:
    path = place.root / "foreign.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(64)
    writer.add_array("tokenizer.ggml.precompiled_charsmap", ["A", "B"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    place.source.files = {"m.gguf": path.read_bytes()}
    with pytest.raises(ModelLoadError, match=r"only Ollama reads; choose a file"):
        place.pull()
    assert place.files == []


def test_a_model_that_llama_cpp_computes_wrongly_is_refused_before_its_bytes_are_fetched(
    place: Place,
) -> None:
    place.source.files = {"m.gguf": place.bert(pooling="rank")}
    with pytest.raises(ModelLoadError, match=r"m\.gguf of .* was not pulled: it has no score head"):
        place.pull()
    assert place.source.streamed == []
    assert place.files == []


def test_a_part_without_a_head_is_not_taken_for_a_model_without_one(place: Place) -> None:
    write_tiny_bert(place.root / "m-Q8_0.gguf", split=8, pooling="rank", head=["score"])
    parts = find_parts(place.root / "m-Q8_0.gguf")
    place.source.files = {part.name: part.read_bytes() for part in parts}
    assert not read_header_file(parts[0]).has_score_head
    assert place.pull(f"{NAME}:Q8_0")
    assert place.model(f"{NAME}:Q8_0").is_reranker


def test_a_language_model_is_refused_before_its_bytes_are_fetched(place: Place) -> None:
    data = write_tiny_decoder(place.root / "llm.gguf").read_bytes()
    place.source.files = {"llm.gguf": data}
    with pytest.raises(UnsupportedError, match=r"does not support embeddings.*qwen2"):
        place.pull()
    assert place.source.streamed == []
    assert place.files == []
    place.source.files["1_Pooling/config.json"] = b'{"pooling_mode_lasttoken": true}'
    place.pull()
    assert place.model().spec.pooling is Pooling.LAST
    assert place.model().supports_embedding


def test_a_header_longer_than_one_range_is_read_in_growing_ones(place: Place) -> None:
    words = [f"word{number:06}" for number in range(40_000)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    data = place.bert(vocabulary=[*special, *words], width=2, heads=1)
    place.source.files = {"m.gguf": data}
    place.pull()
    sizes = [size for _, size in place.source.ranges]
    assert sizes == [(256 << 10) << step for step in range(len(sizes))]
    assert len(sizes) > 1
    starts = [start for start, _ in place.source.ranges]
    assert starts == [sum(sizes[:step]) for step in range(len(sizes))]


@pytest.mark.parametrize(
    ("files", "pooling", "parameters"),
    [
        ({}, "mean", {}),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, None, {"pooling": "cls"}),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True}}, "mean", {}),
        (
            {
                "1_Pooling/config.json": {
                    "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True
                }
            },
            None,
            {},
        ),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, None, {}),
        ({"1_Pooling/config.json": ["no object"]}, None, {}),
        (
            {
                "config_sentence_transformers.json": {
                    "prompts": {
                        "query": "q: ", "passage": "d: ", "document": "", "clustering": "c: ",
                        "x": 1,
                    }
                }
            },
            "mean",
            {"query_prefix": "q: ", "document_prefix": "d: ", "prompts": {"clustering": "c: "}},
        ),
        ({"config_sentence_transformers.json": {"prompts": ["no"]}}, "mean", {}),
    ],
)  # fmt: skip
def test_what_the_repository_says_of_its_use_comes_with_the_model(
    place: Place,
    files: dict[str, object],
    pooling: str | None,
    parameters: dict[str, object],
) -> None:
    companions = {path: json.dumps(value).encode() for path, value in files.items()}
    place.source.files = {"m.gguf": place.bert(pooling=pooling), **companions}
    place.pull()
    assert place.model().parameters.raw == parameters


def test_the_text_of_a_license_comes_before_its_name(place: Place) -> None:
    place.source.license = "mit"
    place.source.files["LICENSE"] = b"MIT License\n\nDo as you like.\n"
    place.pull()
    stored = place.store.manifests.read(place.model().name)
    assert stored is not None
    blob = stored.manifest.of_type(LICENSE)[0]
    assert place.store.blobs.read(blob.digest, 100) == b"MIT License\n\nDo as you like."


def test_a_recipe_knows_better_than_the_repository(place: Place) -> None:
    place.source.files["1_Pooling/config.json"] = b'{"pooling_mode_lasttoken": true}'
    place.recipes = [recipe(revision="v1")]
    place.pull("tiny")
    model = place.model("tiny")
    assert model.parameters.raw == {"num_ctx": 48, "pooling": "cls", "query_prefix": "q: "}
    assert model.limit(Options()) == 48
    assert place.source.revisions == ["v1"]
    assert place.config("tiny").made_from == "hf.co/acme/tiny-GGUF@c1/tiny-Q8_0.gguf"


def test_a_smaller_size_of_a_model_is_not_cut_to_more_than_it_has(place: Place) -> None:
    sized = msgspec.structs.replace(recipe(dimensions=16), matryoshka=(32, 16, 8))
    place.recipes = [sized]
    place.pull("tiny")
    assert place.model("tiny").parameters.matryoshka == (16, 8)


def test_a_recipe_that_names_a_digest_gets_that_or_nothing(place: Place) -> None:
    right = digest_of(place.source.files["tiny-Q8_0.gguf"])[7:]
    place.recipes = [recipe(sha256="0" * 64)]
    with pytest.raises(PullError, match=rf"digest mismatch.*want sha256:0+, got sha256:{right}"):
        place.pull("tiny")
    place.recipes = [recipe(sha256=right)]
    assert place.pull("tiny")


def test_a_recipe_whose_file_is_gone_is_not_found(place: Place) -> None:
    place.recipes = [recipe(file="gone.gguf")]
    with pytest.raises(
        PullError,
        match=r"^pull model manifest: file does not exist: acme/tiny-GGUF has no file gone.gguf$",
    ):
        place.pull("tiny")


def offer_parts(place: Place) -> list[str]:
    """Put a model of several files on the hub: their names."""
    write_tiny_bert(place.root / "m-Q8_0.gguf", split=8)
    parts = find_parts(place.root / "m-Q8_0.gguf")
    place.source.files = {part.name: part.read_bytes() for part in parts}
    return [part.name for part in parts]


def test_the_parts_of_a_split_model_are_fetched_and_make_one_model(place: Place) -> None:
    names = offer_parts(place)
    assert len(names) == 3
    assert place.pull(f"{NAME}:Q8_0")
    assert sorted(place.source.streamed) == names
    model = place.model(f"{NAME}:Q8_0")
    digests = [digest_of(place.source.files[name]) for name in names]
    paths = [place.store.blobs.path(digest) for digest in digests]
    assert [model.spec.path, *model.spec.parts] == paths
    assert model.facts.parameter_count == sum(
        facts.parameter_count for facts in map(read_header_file, paths)
    )
    assert model.spec.weights == sum(map(len, place.source.files.values()))
    assert not place.pull(f"{NAME}:Q8_0")


def test_a_split_model_that_lacks_a_part_is_not_found(place: Place) -> None:
    names = offer_parts(place)
    del place.source.files[names[1]]
    with pytest.raises(PullError, match="file does not exist"):
        place.pull(f"{NAME}:Q8_0")
    assert place.source.streamed == []


def test_a_part_that_fails_stops_the_others_and_names_the_cause(place: Place) -> None:
    offer_parts(place)
    place.source.break_at = 100
    with pytest.raises(PullError, match="it broke off"):
        place.pull(f"{NAME}:Q8_0")
    assert not [name for name in place.files if name.startswith("sha256") and "-" not in name[7:]]


def test_parts_that_are_no_parts_of_one_model_are_refused(place: Place) -> None:
    names = offer_parts(place)
    place.source.files[names[1]] = place.bert()
    with pytest.raises(ModelLoadError, match="split into 3 parts"):
        place.pull(f"{NAME}:Q8_0")


def test_a_pull_whose_clients_left_ends(place: Place) -> None:
    answers = iter([False, True])
    library = place.library()
    with pytest.raises(PullError, match=STOPPED):
        library.pull(NAME, stop=lambda: next(answers))
    assert place.source.streamed == []
    with pytest.raises(PullError, match=STOPPED):
        library.pull(NAME, stop=lambda: True)
    assert len(place.source.revisions) == 1


def test_two_pulls_of_one_model_share_its_bytes(place: Place) -> None:
    library = place.library()
    together = threading.Barrier(2, timeout=60)
    errors: list[EmbeddError] = []

    def pull() -> None:
        together.wait()
        try:
            library.pull(NAME)
        except EmbeddError as error:
            errors.append(error)

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert place.source.streamed == ["tiny-Q8_0.gguf"]


def test_refreshing_pulls_again_what_was_pulled_and_one_failure_does_not_stop_it(
    place: Place,
) -> None:
    place.recipes = [recipe()]
    place.pull("tiny")
    place.pull(f"{NAME}:f16")
    library = place.library()
    library.create("mine", write_tiny_bert(place.root / "mine.gguf", seed=3))
    place.source.files = {"tiny-Q8_0.gguf": place.bert(seed=9)}
    outcomes = {model.name: model for model in library.refresh()}
    assert set(outcomes) == {"tiny:latest", f"{NAME}:f16"}
    assert outcomes["tiny:latest"].changed
    assert "file does not exist" in outcomes[f"{NAME}:f16"].error
    assert [model.changed for model in library.refresh()] == [False, False]
    with pytest.raises(PullError, match=STOPPED):
        library.refresh(stop=lambda: True)


def test_searching_finds_recipes_by_any_of_their_words(place: Place) -> None:
    place.recipes = [recipe()]
    library = place.library()
    assert [found.name for found in library.search()] == ["tiny"]
    assert [found.name for found in library.search(" TIN ")] == ["tiny"]
    assert library.search("giant") == []


def test_the_known_architectures_are_those_of_the_installed_llama_cpp() -> None:
    folder = Path(llama_cpp.__file__).parent / "lib"
    binary = next(iter(sorted(folder.glob("libllama.*")))).read_bytes()
    # The package gguf is released less often.
    assert set(gguf.MODEL_ARCH_NAMES.values()) <= ARCHITECTURES
    assert [name for name in ARCHITECTURES if name.encode() + b"\0" not in binary] == []
