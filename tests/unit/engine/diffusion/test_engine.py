"""The real library on a tiny model: what it paints, and what it refuses."""

from tests.needs import require_diffusion

require_diffusion()

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.engine.diffusion.engine import DiffusionEngine, _guard
from embedd.engine.image_spec import SMALL_PIXELS
from embedd.errors import EngineError, ModelLoadError
from embedd.images import FAMILIES, ImageFamily, ImagePart, Phase, Pixels
from tests.tiny_images import write_tiny_klein, write_tiny_klein_parts
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order

Reports = list[tuple[Phase, int]]


def load(parts: Mapping[ImagePart, Path], **changes: Any) -> DiffusionEngine:
    return DiffusionEngine.load(make_image_spec(parts=parts, **changes), threads=1)


@pytest.fixture(scope="module")
def engine(tiny_klein: Path) -> Iterator[DiffusionEngine]:
    one = load({ImagePart.MODEL: tiny_klein})
    yield one
    one.close()


def paint(engine: DiffusionEngine, **order: Any) -> Pixels:
    return engine.paint(make_order(**({"steps": 2} | order)), lambda _phase, _step: None)


@pytest.fixture(scope="module")
def plain(engine: DiffusionEngine) -> Pixels:
    """The picture of the order that the tests change."""
    return paint(engine)


def test_it_knows_its_version_and_how_it_samples(engine: DiffusionEngine) -> None:
    assert engine.info.library.startswith("stable-diffusion.cpp 0.")
    assert (engine.info.engine, engine.info.backend) == ("diffusion", "diffusion")
    assert engine.info.sampler == "euler"


def test_equal_orders_give_equal_pictures(engine: DiffusionEngine, plain: Pixels) -> None:
    assert plain.shape == (64, 64, 3)
    assert plain.std() > 10, "something is painted"
    assert (paint(engine) == plain).all()


@pytest.mark.parametrize(
    "change", [{"prompt": "a dog"}, {"seed": 8}, {"steps": 3}, {"guidance": 4.0}]
)
def test_another_order_gives_another_picture(
    engine: DiffusionEngine, plain: Pixels, change: dict[str, Any]
) -> None:
    assert (paint(engine, **change) != plain).any()


def test_a_negative_prompt_counts_with_guidance_alone(
    engine: DiffusionEngine, plain: Pixels
) -> None:
    assert (paint(engine, negative="fog") == plain).all()
    assert (paint(engine, negative="fog", guidance=4.0) != paint(engine, guidance=4.0)).any()


def test_a_picture_has_the_painted_size_rows_first(engine: DiffusionEngine) -> None:
    assert paint(engine, painted_width=128, painted_height=80, steps=1).shape == (80, 128, 3)


def test_the_largest_seed_and_text_of_any_kind_are_painted(
    engine: DiffusionEngine, plain: Pixels
) -> None:
    prompt = "größer 😀 (word:1.3) [less] <lora:/etc/passwd:1>"
    picture = paint(engine, prompt=prompt, seed=(1 << 32) - 1, steps=1)
    assert picture.shape == plain.shape


def test_a_lora_in_a_prompt_reads_no_file(engine: DiffusionEngine) -> None:
    """It is text like any other: another number gives another picture, and no error."""
    first, second = [paint(engine, prompt=f"<lora:none:{n}>", steps=1) for n in (1, 2)]
    assert (first != second).any()


def test_steps_and_previews_come_in_order_and_each_once(engine: DiffusionEngine) -> None:
    events: list[object] = []
    engine.paint(
        make_order(steps=2),
        lambda phase, step: events.append((phase, step)),
        lambda step, pixels: events.append((step, pixels.shape)),
    )
    assert events == [
        (Phase.SAMPLING, 0),
        (1, (8, 8, 3)),
        (Phase.SAMPLING, 1),
        (2, (8, 8, 3)),
        (Phase.SAMPLING, 2),
        (Phase.DECODING, 2),
    ]
    shown = len(events)
    paint(engine, steps=1)
    assert len(events) == shown, "the callbacks of a picture end with it"


def test_three_files_give_the_picture_of_one(
    tmp_path: Path, engine: DiffusionEngine, plain: Pixels
) -> None:
    several = load(write_tiny_klein_parts(tmp_path))
    assert (paint(several) == plain).all()
    several.close()


def test_a_blob_without_a_file_ending_gives_the_same_picture_without_mmap(
    tmp_path: Path, tiny_klein: Path, plain: Pixels
) -> None:
    blob = tmp_path / "sha256-0"
    blob.symlink_to(tiny_klein)
    shares: list[float] = []
    spec = make_image_spec(parts={ImagePart.MODEL: blob}, use_mmap=False)
    one = DiffusionEngine.load(spec, threads=1, report=shares.append)
    assert (paint(one) == plain).all()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    one.close()


def test_a_model_for_large_pictures_computes_attention_another_way(
    tiny_klein: Path, plain: Pixels
) -> None:
    large = load({ImagePart.MODEL: tiny_klein}, pixels=2 * SMALL_PIXELS)
    assert large.info.backend == "diffusion-flash"
    picture = paint(large)
    assert (picture != plain).any()
    assert np.abs(picture.astype(int) - plain).mean() < 5
    large.close()


def test_guidance_of_a_distilled_model_is_not_the_engines_own(engine: DiffusionEngine) -> None:
    """It would cost a second pass for every step, and burn the picture."""
    facts = engine._facts
    params = engine._make_params(make_order(guidance=3.5)).sample_params.guidance
    assert (params.txt_cfg, params.distilled_guidance) == (3.5, 3.5)
    engine._facts = FAMILIES[ImageFamily.FLUX1_DEV]
    params = engine._make_params(make_order(guidance=2.5)).sample_params.guidance
    assert (params.txt_cfg, params.distilled_guidance) == (1.0, 2.5)
    engine._facts = facts


def test_only_large_pictures_are_decoded_in_tiles(engine: DiffusionEngine) -> None:
    for side, tiled in ((512, False), (528, True)):
        params = engine._make_params(make_order(painted_width=side, painted_height=512))
        assert params.vae_tiling_params.enabled is tiled


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda data: data[: len(data) // 2], "read tensor data failed", id="half"),
        pytest.param(lambda _data: os.urandom(100_000), "unknown format file", id="random"),
        pytest.param(lambda _data: b"", "unknown format file", id="empty"),
        pytest.param(lambda data: bytes(len(data)), "unknown format file", id="zeros"),
    ],
)
def test_a_broken_file_is_an_error_with_a_reason_and_without_folders(
    tmp_path: Path, tiny_klein: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(change(tiny_klein.read_bytes()))
    with pytest.raises(ModelLoadError) as caught:
        load({ImagePart.MODEL: file})
    assert str(caught.value).startswith(f'cannot load model "klein": {reason}')
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    ["first_stage_model.decoder.conv_out.weight", "text_encoders.llm.model.norm.weight"],
)
def test_a_missing_tensor_is_named(tmp_path: Path, tensor: str) -> None:
    file = write_tiny_klein(tmp_path / "file", without=tensor)
    with pytest.raises(ModelLoadError) as caught:
        load({ImagePart.MODEL: file})
    assert str(caught.value) == (
        f"cannot load model \"klein\": tensor '{tensor}' not in model file"
    )


@pytest.mark.parametrize("missing", [ImagePart.LLM, ImagePart.VAE])
def test_a_missing_companion_is_an_error_that_names_what_it_would_hold(
    tmp_path: Path, missing: ImagePart
) -> None:
    parts = dict(write_tiny_klein_parts(tmp_path))
    del parts[missing]
    with pytest.raises(ModelLoadError, match=r"tensor '.*' not in model file"):
        load(parts)


def test_a_picture_that_the_library_gives_up_is_an_engines_error(
    engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedd.engine.diffusion.engine.lib.generate_image", lambda *_: None)
    with pytest.raises(EngineError, match=r"^the picture was not painted: the library gives no"):
        paint(engine)


def test_an_error_in_a_callback_does_not_reach_the_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("in a callback")

    _guard(lambda function: function, fail)(1, 2)
    assert "ValueError: in a callback" in capsys.readouterr().err
