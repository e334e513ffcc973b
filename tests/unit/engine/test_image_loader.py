"""The loader of image models: what it passes on, measures and logs."""

import logging
import math
from pathlib import Path

import pytest

from embedd.config import image_worker_environment
from embedd.engine.image_loader import ImageLoader
from embedd.errors import LoadTimeoutError, ModelLoadError
from embedd.images import ImagePart
from embedd.metrics import Metrics
from tests.exposition import moved, read
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order


def make_loader(metrics: Metrics, load_timeout: float = math.inf) -> ImageLoader:
    return ImageLoader(
        environment=image_worker_environment(),
        cores=2,
        metrics=metrics,
        load_timeout=load_timeout,
        engine="fake",
    )


async def test_a_loaded_model_is_measured_logged_and_paints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model"
    path.touch()
    metrics = Metrics()
    metrics.of_image_model("klein")
    before = read(metrics)
    with caplog.at_level(logging.INFO):
        model = await make_loader(metrics).load(make_image_spec(parts={ImagePart.MODEL: path}))
    assert moved(before, read(metrics)) == {"embedd_load_seconds_count{model=klein}": 1}
    [record] = [one for one in caplog.records if one.message == "model loaded"]
    assert record.__dict__["pid"] == model.pid
    assert model.cores == 2
    [picture] = await model.paint([make_order()], lambda _progress: None)
    assert picture.data
    await model.close()
    assert model.pid is None


async def test_a_model_whose_file_is_missing_is_an_error_and_leaves_no_worker() -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        await make_loader(Metrics()).load(make_image_spec())


async def test_a_load_without_progress_ends(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.touch()
    with pytest.raises(LoadTimeoutError, match='timed out loading model "klein"'):
        await make_loader(Metrics(), 0.0).load(make_image_spec(parts={ImagePart.MODEL: path}))
