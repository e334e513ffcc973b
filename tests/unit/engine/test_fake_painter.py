"""The fake engine that paints: what the tests above it rely on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.engine.fake_painter import BLANK, REFUSE, FakePainter
from embedd.errors import EngineError, ModelLoadError
from embedd.images import ImagePart, Phase, Pixels
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order


def paint(**order: Any) -> Pixels:
    return FakePainter().paint(make_order(**order), lambda _phase, _step: None)


def test_equal_orders_give_equal_pictures_of_the_painted_size() -> None:
    picture = paint(painted_width=80, painted_height=64)
    assert picture.shape == (64, 80, 3)
    assert picture.dtype == np.uint8
    assert (picture == paint(painted_width=80, painted_height=64)).all()


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a dog"}, {"seed": 8}, {"steps": 4}, {"guidance": 2.0}],
)
def test_another_order_gives_another_picture(change: dict[str, Any]) -> None:
    assert (paint() != paint(**change)).any()


def test_a_negative_prompt_counts_only_with_guidance() -> None:
    assert (paint(negative="fog") == paint()).all()
    assert (paint(negative="fog", guidance=4.0) != paint(guidance=4.0)).any()


def test_every_step_is_reported_once_and_shown() -> None:
    reports: list[tuple[Phase, int]] = []
    shown: list[int] = []
    FakePainter().paint(
        make_order(),
        lambda phase, step: reports.append((phase, step)),
        lambda step, _pixels: shown.append(step),
    )
    steps = [(Phase.SAMPLING, step) for step in range(4)]
    assert reports == [*steps, (Phase.DECODING, 3)]
    assert shown == [1, 2, 3]


def test_it_fails_on_demand() -> None:
    assert (paint(prompt=BLANK) == 255).all()
    with pytest.raises(EngineError):
        paint(prompt=REFUSE)


def test_a_model_whose_files_do_not_exist_cannot_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "model"
    spec = make_image_spec(parts={ImagePart.MODEL: file})
    with pytest.raises(ModelLoadError, match="no such file: model"):
        FakePainter.load(spec, threads=1)
    file.touch()
    shares: list[float] = []
    FakePainter.load(spec, threads=1, report=shares.append).close()
    assert shares == [1.0]
