"""Image models of the hub: which files are taken, what is shown, refused and stored."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from embedd.catalog.catalog import Catalog
from embedd.catalog.image_recipe import ImageRecipe
from embedd.errors import ModelLoadError, PullError, UnsupportedError
from embedd.images import ImagePart
from embedd.library import Library
from embedd.ollama_api import ProgressLine
from embedd.resolve import Resolver
from embedd.store.hub import Hub
from embedd.store.manifests import LICENSE
from embedd.store.partial import Partial
from embedd.store.remote import RemoteBlob, RemoteFile, Repository
from embedd.store.store import Store
from embedd.stored_images import StoredImageModel
from tests.image_files import (
    KLEIN,
    klein_in_one_file,
    write_gguf,
    write_klein,
    write_safetensors,
)
from tests.loopback_hub import digest_of
from tests.tiny_models import write_tiny_bert


@dataclass
class FakeHub(Hub):
    """Repositories in memory."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    license: str = "apache-2.0"
    streamed: list[str] = field(default_factory=list)

    def look_up(self, repository: str, revision: str | None = None) -> Repository:
        if repository not in self.repositories:
            raise PullError("pull model manifest: file does not exist")
        files = [
            RemoteFile(path=path, size=len(data))
            for path, data in self.repositories[repository].items()
        ]
        return Repository(name=repository, commit="c1", files=tuple(files), license=self.license)

    def locate(self, repository: Repository, path: str) -> RemoteBlob:
        data = self.repositories[repository.name][path]
        return RemoteBlob(
            repository=repository.name,
            commit=repository.commit,
            path=path,
            size=len(data),
            digest=digest_of(data),
        )

    def read(self, repository: Repository, path: str, limit: int) -> bytes:
        return self.repositories[repository.name][path][:limit]

    def read_range(self, blob: RemoteBlob, start: int, size: int) -> bytes:
        return self.repositories[blob.repository][blob.path][start : start + size]

    def stream(self, blob: RemoteBlob, partial: Partial) -> None:
        self.streamed.append(blob.path)
        partial.write(self.repositories[blob.repository][blob.path][partial.done :])


@dataclass
class Place:
    """A store, a library over it, and the hub that it pulls from."""

    root: Path
    hub: FakeHub = field(default_factory=FakeHub)
    recipes: list[ImageRecipe] = field(default_factory=list)
    seen: list[ProgressLine] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.root / "models")

    def library(self) -> Library:
        catalog = Catalog([], self.recipes)
        return Library(self.store, Resolver(self.store), catalog, open_hub=lambda: self.hub)

    def pull(self, name: str) -> bool:
        self.seen.clear()
        return self.library().pull(name, self.seen.append)

    def model(self, name: str) -> StoredImageModel:
        return Resolver(self.store).resolve_image(name)

    @property
    def statuses(self) -> list[str]:
        return list(dict.fromkeys(line.status for line in self.seen))

    def licences(self, name: str) -> list[str]:
        stored = self.library()._find(name)
        layers = stored.manifest.of_type(LICENSE)
        return [self.store.blobs.read(layer.digest, 99).decode() for layer in layers]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    paths = write_klein(tmp_path / "klein")
    hub = FakeHub(
        repositories={
            "acme/klein-GGUF": {"klein-Q4_0.gguf": paths["diffusion"].read_bytes()},
            "qwen/Qwen3": {"qwen.gguf": paths["llm"].read_bytes()},
            "acme/vae": {"sub/vae.safetensors": paths["vae"].read_bytes()},
        }
    )
    return Place(tmp_path, hub)


def recipe(**changes: object) -> ImageRecipe:
    base: dict[str, object] = {
        "kind": "image", "name": "klein", "description": "Klein", "license": "Apache-2.0",
        "steps": 4, "width": 64,
        "components": {
            "llm": {"repository": "qwen/Qwen3", "file": "qwen.gguf"},
            "vae": {"repository": "acme/vae", "file": "sub/vae.safetensors"},
        },
        "tags": {"latest": {"repository": "acme/klein-GGUF", "file": "klein-Q4_0.gguf"}},
    }  # fmt: skip
    return msgspec.convert(base | changes, ImageRecipe)


def test_all_files_of_a_recipe_are_pulled_with_its_parameters(place: Place) -> None:
    place.recipes = [recipe()]
    assert place.pull("klein")
    model = place.model("klein")
    assert [*model.spec.parts] == [ImagePart.DIFFUSION, ImagePart.LLM, ImagePart.VAE]
    assert (model.model.steps, model.model.width) == (4, 64)
    assert sorted(place.hub.streamed) == ["klein-Q4_0.gguf", "qwen.gguf", "sub/vae.safetensors"]
    assert place.licences("klein") == ["Apache-2.0"]
    assert place.statuses[-1] == "success"
    assert not place.pull("klein")
    assert len(place.hub.streamed) == 3
    [again] = place.library().refresh()
    assert (again.name, again.changed, again.error) == ("klein:latest", False, "")


def test_the_terms_of_a_licence_are_shown_before_the_download(place: Place) -> None:
    place.recipes = [recipe(license="sai-nc-community", terms="only at home")]
    place.pull("klein")
    statuses = place.statuses
    first_bytes = next(n for n, text in enumerate(statuses) if text.startswith("pulling sha") or (
        text.startswith("pulling ") and text != "pulling manifest"
    ))  # fmt: skip
    assert statuses.index("note: only at home") < first_bytes


def test_a_repository_with_one_file_needs_no_recipe(place: Place) -> None:
    data = write_safetensors(place.root / "a", klein_in_one_file()).read_bytes()
    other = write_safetensors(place.root / "b", klein_in_one_file(), seed=1).read_bytes()
    place.hub.license = "flux-1-dev-non-commercial-license"
    place.hub.repositories["acme/all"] = {
        "all.safetensors": data, "all_fp16.safetensors": other,
        "unet/diffusion_pytorch_model.safetensors": b"", "model.safetensors": b"",
        "README.md": b"",
    }  # fmt: skip
    assert place.pull("hf.co/acme/all")
    assert place.model("hf.co/acme/all").spec.path.read_bytes() == other
    note = "note: the licence of this model (flux-1-dev-non-commercial-license) is for"
    assert any(text.startswith(note) for text in place.statuses)
    assert place.pull("hf.co/acme/all:all.safetensors")
    assert place.model("hf.co/acme/all:all.safetensors").spec.path.read_bytes() == data
    [_, entry] = place.library().list()
    assert entry.capabilities == ["image"]


@pytest.mark.parametrize("architecture", ["", "flux"])
def test_a_gguf_with_everything_in_it_is_pulled(place: Place, architecture: str) -> None:
    path = write_gguf(place.root / "a", klein_in_one_file(), architecture=architecture)
    place.hub.repositories["acme/all"] = {"all-q8_0.gguf": path.read_bytes()}
    assert place.pull("hf.co/acme/all:q8_0")
    assert place.model("hf.co/acme/all:q8_0").details.family == "flux2-klein"
    assert not place.pull("hf.co/acme/all:q8_0")


def test_a_diffusion_model_alone_is_refused_with_what_it_needs(place: Place) -> None:
    message = (
        r"klein-Q4_0\.gguf of acme/klein-GGUF was not pulled: .* without llm, vae: .*COMPONENT"
    )
    with pytest.raises(UnsupportedError, match=message):
        place.pull("hf.co/acme/klein-GGUF")
    place.recipes = [recipe(components={})]
    with pytest.raises(UnsupportedError, match=message):
        place.pull("klein")
    assert place.hub.streamed == []
    assert place.library().list() == []


def test_files_that_changed_at_their_source_are_refused(place: Place) -> None:
    vae = {"repository": "acme/vae", "file": "sub/vae.safetensors", "sha256": "0" * 64}
    llm = {"repository": "qwen/Qwen3", "file": "qwen.gguf"}
    place.recipes = [recipe(components={"llm": llm, "vae": vae})]
    with pytest.raises(PullError, match=r"digest mismatch.*vae\.safetensors of acme/vae"):
        place.pull("klein")
    place.recipes = [recipe(components={"llm": llm, "vae": {**vae, "file": "gone"}})]
    with pytest.raises(PullError, match="gone of acme/vae"):
        place.pull("klein")
    place.recipes = [recipe(tags={"latest": llm}, components={})]
    with pytest.raises(UnsupportedError, match="it is not an image model"):
        place.pull("klein")
    assert place.hub.streamed == []


def test_safetensors_that_are_not_an_image_model_are_refused_before_the_download(
    place: Place,
) -> None:
    place.hub.repositories["acme/odd"] = {
        "odd.safetensors": write_safetensors(place.root / "o", {"a": (2, 2)}).read_bytes()
    }
    with pytest.raises(ModelLoadError, match=r"odd\.safetensors of acme/odd cannot be used"):
        place.pull("hf.co/acme/odd")
    vae = write_safetensors(place.root / "v", KLEIN["vae"]).read_bytes()
    place.hub.repositories["acme/odd"] = {"odd.safetensors": vae}
    with pytest.raises(UnsupportedError, match="the component vae alone"):
        place.pull("hf.co/acme/odd")
    assert place.hub.streamed == []


def test_an_encoder_is_pulled_as_before(place: Place) -> None:
    path = write_tiny_bert(place.root / "bert.gguf", pooling="mean")
    place.hub.repositories["acme/bert"] = {"bert.gguf": path.read_bytes()}
    assert place.pull("hf.co/acme/bert")
    [entry] = place.library().list()
    assert entry.capabilities == ["embedding"]
