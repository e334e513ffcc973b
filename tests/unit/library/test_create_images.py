"""Image models are created from one file, from components, from uploads and from each other."""

import hashlib
from pathlib import Path

import pytest

from embedd.errors import InvalidInputError, ModelLoadError, UnsupportedError
from embedd.images import ImageFamily, ImagePart
from embedd.library.uploads import blob_at
from embedd.modelfile import parse_modelfile
from embedd.ollama_api import ProgressLine
from embedd.resolve import Resolver
from embedd.store.manifests import LICENSE, MODEL
from embedd.stored_images import StoredImageModel
from tests.image_files import (
    KLEIN,
    TAESD,
    klein_in_one_file,
    write_gguf,
    write_klein,
    write_safetensors,
)
from tests.unit.library.conftest import Workshop


def find(workshop: Workshop, name: str) -> StoredImageModel:
    return Resolver(workshop.store).resolve_image(name)


def upload(workshop: Workshop, path: Path) -> str:
    with workshop.library.open_upload() as incoming:
        incoming.write(path.read_bytes())
        incoming.seal()
        return incoming.keep().digest


def layer_names(workshop: Workshop, name: str) -> list[str]:
    return [one.name for one in workshop.library._find(name).manifest.of_type(MODEL)]


def create_klein(workshop: Workshop, name: str = "klein", **arguments: object) -> dict[str, Path]:
    paths = write_klein(workshop.root / name)
    first, components = paths["diffusion"], {"llm": paths["llm"], "vae": paths["vae"]}
    assert workshop.create(name, first, components=components, **arguments)
    return paths


@pytest.mark.parametrize("write", [write_gguf, write_safetensors])
def test_one_file_with_everything_in_it_is_a_model(write: object, workshop: Workshop) -> None:
    assert callable(write)
    assert workshop.create("sd", write(workshop.root / "sd.safetensors", klein_in_one_file()))
    assert layer_names(workshop, "sd") == ["model"]
    model = find(workshop, "sd")
    assert model.spec.family is ImageFamily.FLUX2_KLEIN
    assert [*model.spec.parts] == [ImagePart.MODEL]
    assert "found flux2-klein" in workshop.statuses
    assert workshop.verified == []


def test_a_model_of_several_files_has_a_layer_for_each(workshop: Workshop) -> None:
    paths = create_klein(workshop, licenses=["Apache-2.0"])
    assert layer_names(workshop, "klein") == ["diffusion", "llm", "vae"]
    model = find(workshop, "klein")
    for part, path in model.spec.parts.items():
        assert path.read_bytes() == paths[part].read_bytes()
    assert model.spec.weights == sum(path.stat().st_size for path in paths.values())
    assert workshop.library._find("klein").manifest.of_type(LICENSE)


def test_steps_guidance_and_size_are_those_of_the_family_or_of_the_model(
    workshop: Workshop,
) -> None:
    create_klein(workshop)
    model = find(workshop, "klein").model
    assert (model.steps, model.guidance) == (4, 1.0)
    assert model.width == model.height > 0
    parameters = {"steps": 20, "guidance": 4, "width": 64, "height": 128}
    workshop.create("base", "klein", parameters=parameters)
    model = find(workshop, "base").model
    assert (model.steps, model.guidance, model.width, model.height) == (20, 4.0, 64, 128)


def test_list_and_show_say_what_it_is(workshop: Workshop) -> None:
    create_klein(workshop, parameters={"steps": 2}, licenses=["Apache-2.0"])
    [entry] = workshop.library.list()
    assert entry.capabilities == ["image"]
    assert entry.details.family == "flux2-klein"
    assert entry.details.format == "gguf"
    assert entry.details.quantization_level == "F16"
    assert entry.details.parameter_size
    shown = workshop.library.show("klein")
    assert shown.capabilities == ["image"]
    assert shown.model_info["general.architecture"] == "flux2-klein"
    assert shown.model_info["image.steps"] == 2
    assert shown.model_info["vae.format"] == "safetensors"
    assert "diffusion:img_in.weight" in {tensor.name for tensor in shown.tensors}
    assert shown.modelfile.count("\nCOMPONENT ") == 2
    assert "PARAMETER steps 2" in shown.modelfile


def test_a_shown_modelfile_makes_the_same_model(workshop: Workshop) -> None:
    create_klein(workshop, parameters={"steps": 2})
    shown = parse_modelfile(workshop.library.show("klein").modelfile)
    workshop.create(
        "again",
        Path(shown.source),
        components={part: Path(path) for part, path in shown.components.items()},
        parameters=shown.parameters,
    )
    first, second = workshop.library._find("klein"), workshop.library._find("again")
    assert first.manifest == second.manifest


def test_uploaded_files_become_a_model(workshop: Workshop) -> None:
    paths = write_klein(workshop.root / "k")
    digests = {name: upload(workshop, path) for name, path in paths.items()}
    components = {name: digests[name] for name in ("llm", "vae")}
    workshop.create("k", {"klein.gguf": digests["diffusion"]}, components=components)
    assert layer_names(workshop, "k") == ["diffusion", "llm", "vae"]
    whole = write_safetensors(workshop.root / "whole", klein_in_one_file())
    workshop.create("w", {"whole.safetensors": upload(workshop, whole)})
    assert layer_names(workshop, "w") == ["model"]


def test_a_model_made_from_an_image_model_shares_its_files(workshop: Workshop) -> None:
    create_klein(workshop, licenses=["Apache-2.0"])
    taesd = write_safetensors(workshop.root / "taesd.safetensors", TAESD)
    workshop.create("fast", "klein", components={"taesd": taesd}, licenses=["Apache-2.0", "MIT"])
    base, fast = workshop.library._find("klein").manifest, workshop.library._find("fast").manifest
    assert layer_names(workshop, "fast") == ["diffusion", "llm", "vae", "taesd"]
    assert fast.of_type(MODEL)[:3] == base.of_type(MODEL)
    assert len(fast.of_type(LICENSE)) == 2
    other = write_safetensors(workshop.root / "vae2.safetensors", KLEIN["vae"], seed=9)
    workshop.create("other", "fast", components={"vae": other})
    places = find(workshop, "other").spec.parts
    assert places[ImagePart.VAE].read_bytes() == other.read_bytes()
    assert blob_at(places[ImagePart.TAESD]).size == taesd.stat().st_size


def test_deleting_a_model_keeps_the_files_that_another_needs(workshop: Workshop) -> None:
    create_klein(workshop)
    workshop.library.copy("klein", "copy")
    assert workshop.library.is_shared("klein")
    workshop.library.delete("klein")
    assert find(workshop, "copy").spec.path.is_file()
    workshop.library.delete("copy")
    assert workshop.files == set()


def test_a_component_that_is_missing_is_named_before_anything_is_stored(
    workshop: Workshop,
) -> None:
    paths = write_klein(workshop.root / "k")
    message = (
        "the file is the diffusion model of flux2-klein without llm, vae: create the model from "
        r"a Modelfile that names those files too \(COMPONENT llm <file>, COMPONENT vae <file>\)"
    )
    with pytest.raises(InvalidInputError, match=message):
        workshop.create("k", paths["diffusion"])
    with pytest.raises(InvalidInputError, match="without vae:"):
        workshop.create("k", paths["diffusion"], components={"llm": paths["llm"]})
    assert workshop.files == set()


def test_a_file_that_changes_while_it_is_copied_is_not_stored(workshop: Workshop) -> None:
    paths = write_klein(workshop.root / "k")

    def swap(line: ProgressLine) -> None:
        if line.status == "copying diffusion":
            write_safetensors(paths["vae"], {"other.weight": (2, 2)})

    components = {"llm": paths["llm"], "vae": paths["vae"]}
    with pytest.raises(InvalidInputError, match="not a file of an image model"):
        workshop.library.create("k", paths["diffusion"], components=components, report=swap)
    assert workshop.files == set()


def hash_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("first", "components", "error", "message"),
    [
        ("diffusion", {"llm": "vae", "vae": "llm"}, InvalidInputError,
         "the file of COMPONENT llm is the component vae"),
        ("diffusion", {"llm": "llm", "vae": "other"}, InvalidInputError,
         "the file of COMPONENT vae is not a file of an image model"),
        ("diffusion", {"llm": "nothing", "vae": "vae"}, InvalidInputError, "does not exist"),
        ("diffusion", {"llm": hash_of("x"), "vae": "vae"}, InvalidInputError, "not found"),
        ("diffusion", {"unet": "vae"}, InvalidInputError, 'component "unet" must be one of llm'),
        ("vae", {}, InvalidInputError, "the file is the component vae alone"),
        ("llm", {"vae": "vae"}, InvalidInputError, "the file is the component llm alone"),
        ("other", {"vae": "vae"}, InvalidInputError, "not of a family that embedd knows"),
        ("other", {}, ModelLoadError, "not an image model that embedd knows"),
        ("pickle", {}, ModelLoadError, "a pickle"),
        ("cut", {"llm": "llm", "vae": "vae"}, ModelLoadError, "truncated"),
        ("video", {}, UnsupportedError, "Wan, which makes videos"),
        ("folder", {"vae": "vae"}, InvalidInputError, "COMPONENT belongs to"),
        ("encoder", {"vae": "vae"}, InvalidInputError, "not of a family that embedd knows"),
    ],
)  # fmt: skip
def test_files_that_do_not_make_a_model_are_refused(
    first: str,
    components: dict[str, str],
    error: type[Exception],
    message: str,
    workshop: Workshop,
) -> None:
    paths = write_klein(workshop.root / "k")
    paths["other"] = write_safetensors(workshop.root / "other.safetensors", {"a.weight": (2, 2)})
    paths["pickle"] = workshop.root / "sd.ckpt"
    paths["pickle"].write_bytes(b"PK\x03\x04" + bytes(100))
    paths["cut"] = workshop.root / "cut.gguf"
    paths["cut"].write_bytes(paths["diffusion"].read_bytes()[:-40])
    paths["video"] = write_gguf(
        workshop.root / "video.gguf", {"blocks.0.cross_attn.norm_k.weight": (4,)}
    )
    paths["folder"] = workshop.root / "k"
    paths["encoder"] = workshop.gguf()
    given = {
        part: name if name.startswith("sha256:") else paths.get(name, workshop.root / name)
        for part, name in components.items()
    }
    with pytest.raises(error, match=message):
        workshop.create("k", paths[first], components=given)
    assert workshop.files == set()


def test_an_image_model_is_not_quantized_here(workshop: Workshop) -> None:
    create_klein(workshop)
    with pytest.raises(InvalidInputError, match="quantized already"):
        workshop.create("small", "klein", quantize="q8_0")
    paths = write_klein(workshop.root / "k")
    components = {"llm": paths["llm"], "vae": paths["vae"]}
    with pytest.raises(InvalidInputError, match="quantized already"):
        workshop.create("small", paths["diffusion"], components=components, quantize="q8_0")


def test_components_belong_to_image_models_alone(workshop: Workshop) -> None:
    vae = write_klein(workshop.root / "k")["vae"]
    workshop.create("reader", workshop.gguf())
    with pytest.raises(InvalidInputError, match='"reader" is not an image model: COMPONENT'):
        workshop.create("mine", "reader", components={"vae": vae})
    files = {"a.json": upload(workshop, vae), "b.safetensors": upload(workshop, vae)}
    with pytest.raises(InvalidInputError, match="are not an image model: COMPONENT"):
        workshop.create("mine", files, components={"vae": vae})


@pytest.mark.parametrize(
    "parameters", [{"steps": "four"}, {"steps": 0}, {"guidance": -1}, {"guidance": "much"}]
)
def test_a_parameter_of_the_wrong_type_is_refused(
    parameters: dict[str, object], workshop: Workshop
) -> None:
    with pytest.raises(InvalidInputError, match="a parameter of the image model is wrong"):
        create_klein(workshop, parameters=parameters)


def test_an_encoder_file_is_as_before_no_image_model(workshop: Workshop) -> None:
    workshop.create("reader", workshop.gguf())
    [entry] = workshop.library.list()
    assert entry.capabilities == ["embedding"]
