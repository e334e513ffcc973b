"""Which engines may compute a model, by wish, by what is installed, by what was found."""

from dataclasses import replace

import pytest

from embedd.cache import VectorCache
from embedd.engine.loader import Loader, NothingToLearn
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.calibrate import Calibration, Verdict
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.metrics import Metrics
from embedd.types import EngineChoice
from tests.unit.engine.workshop import SPEC

AUTO, LLAMA, OPENVINO = EngineChoice


class Known(NothingToLearn):
    """Knows one verdict of every model."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict

    def read(self, spec: ModelSpec) -> Calibration | None:
        del spec
        return None

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        del spec
        return self.verdict


def engines(
    *,
    operator: EngineChoice = AUTO,
    model: EngineChoice | None = None,
    installed: bool = True,
    verdict: Verdict | None = None,
) -> list[str]:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=Known(verdict),
        metrics=Metrics(),
        engine=operator,
        has_openvino=installed,
    )
    backends = loader.choose_backends(replace(SPEC, engine=model))
    return list(dict.fromkeys(backend.engine for backend in backends))


def test_auto_begins_with_the_faster_engine_where_it_is_installed() -> None:
    assert engines() == ["openvino", "llama"]
    assert engines(installed=False) == ["llama"]
    assert engines(verdict=Verdict(distance=1e-6)) == ["openvino", "llama"]


def test_an_engine_that_refused_is_not_asked_again() -> None:
    assert engines(verdict=Verdict(refusal="unknown architecture")) == ["llama"]


def test_a_model_may_want_another_engine_than_the_operator() -> None:
    assert engines(operator=OPENVINO, model=LLAMA) == ["llama"]
    assert engines(operator=LLAMA) == ["llama"]
    assert engines(operator=LLAMA, model=OPENVINO) == ["openvino"]
    assert engines(operator=LLAMA, model=AUTO) == ["openvino", "llama"]


def test_an_engine_that_is_wanted_and_missing_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match=r"pip install 'embedd-server\[openvino\]'"):
        engines(model=OPENVINO, installed=False)


async def test_a_model_is_not_measured_where_there_is_no_room_for_another_worker() -> None:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=Known(None),
        metrics=Metrics(),
        estimate=lambda _spec: 1000,
        find_room=lambda: 999,
    )
    with pytest.raises(InsufficientMemoryError, match=r"1000 bytes, 999 are left.*EMBEDD_MEMORY"):
        await loader.calibrate(SPEC)
