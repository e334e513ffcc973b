"""The store of measurements: read back for the same model, engine, build and cores only."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.choices import EngineChoice, Precision
from embedd.engine.settings import Tuning
from embedd.engine.spec import ModelSpec
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerPlace, TokenizerVerdict
from embedd.engine.tuning import store as store_module
from embedd.engine.tuning.calibrate import Calibration, Trial, Verdict
from embedd.engine.tuning.store import SingleUse, TuningStore
from embedd.state import StateFolder
from embedd.types import Pooling
from tests.unit.engine.fake_worker import SPEC

TRIAL = Trial(backend="llama", replicas=2, batch_tokens=128, tokens_per_second=1234.5)
FOUND = Calibration(
    trials=[TRIAL], best=Tuning(replicas=2, batch_tokens=128, backend="llama", measured=True)
)
VERDICT = Verdict(distance=1e-6)


def open_store(
    state: Path,
    *,
    cores: int = 2,
    engine: EngineChoice = EngineChoice.AUTO,
    precision: Precision = Precision.AUTO,
    build: str = "llama 1",
) -> TuningStore:
    return TuningStore(
        StateFolder(state),
        cores=cores,
        engine=engine,
        precision=precision,
        cpu_features=frozenset(),
        build=build,
    )


def test_what_was_written_is_read_by_the_next_server(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert (store.read(SPEC), store.read_verdict(SPEC)) == (None, None)
    store.write(SPEC, FOUND)
    store.write_verdict(SPEC, VERDICT)
    again = open_store(tmp_path)
    assert (again.read(SPEC), again.read_verdict(SPEC)) == (FOUND, VERDICT)


@pytest.mark.parametrize(
    ("spec", "store"),
    [
        (SPEC, {"cores": 3}),
        (SPEC, {"build": "llama 2"}),
        (SPEC, {"engine": EngineChoice.LLAMA}),
        (SPEC, {"precision": Precision.BF16}),
        (replace(SPEC, engine=EngineChoice.LLAMA), {}),
        (replace(SPEC, digest="sha256:1"), {}),
        (replace(SPEC, pooling=Pooling.CLS), {}),
    ],
    ids=["cores", "build", "engine", "precision", "engine of the model", "file", "pooling"],
)
def test_nothing_is_known_when_what_was_measured_is_different(
    tmp_path: Path, spec: ModelSpec, store: dict[str, object]
) -> None:
    open_store(tmp_path).write(SPEC, FOUND)
    open_store(tmp_path).write_verdict(SPEC, VERDICT)
    other = open_store(tmp_path, **store)  # type: ignore[arg-type]  # a dict of keyword arguments
    assert (other.read(spec), other.read_verdict(spec)) == (None, None)


TOKENIZER = TokenizerVerdict(place=TokenizerPlace.WORKER, size=425 << 20)


def test_what_is_known_of_a_tokenizer_holds_for_the_file_however_it_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_store(tmp_path).read_tokenizer(SPEC) is None
    open_store(tmp_path).write_tokenizer(SPEC, TOKENIZER)
    other = open_store(tmp_path, cores=5, engine=EngineChoice.LLAMA, precision=Precision.BF16)
    assert other.read_tokenizer(replace(SPEC, pooling=Pooling.CLS)) == TOKENIZER
    assert other.read_tokenizer(replace(SPEC, digest="sha256:1")) is None
    assert open_store(tmp_path, build="llama 2").read_tokenizer(SPEC) is None
    monkeypatch.setattr(store_module, "version", lambda _: "99")
    assert open_store(tmp_path).read_tokenizer(SPEC) is None
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "BUILDERS", store_module.BUILDERS + 1)
    assert other.read_tokenizer(SPEC) is None


def test_what_was_measured_with_other_graphs_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    store.write(SPEC, FOUND)
    store.write_verdict(SPEC, VERDICT)
    monkeypatch.setattr(store_module, "GRAPHS", store_module.GRAPHS + 1)
    assert store.read(SPEC) is None
    assert store.read_verdict(SPEC) is None


def test_a_value_of_another_shape_is_ignored_and_replaced(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(SPEC, FOUND)
    [file] = tmp_path.rglob("*.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"value": {"trials": 5}}))
    assert store.read(SPEC) is None
    store.write(SPEC, FOUND)
    assert store.read(SPEC) == FOUND


def test_a_model_that_is_loaded_once_is_neither_calibrated_nor_remembered() -> None:
    store = SingleUse()
    store.write(SPEC, FOUND)
    store.write_verdict(SPEC, VERDICT)
    store.write_tokenizer(SPEC, TOKENIZER)
    assert store.read_tokenizer(SPEC) == LLAMA_TOKENIZER
    assert store.read(SPEC) == Calibration(trials=(), best=Tuning(replicas=1))
    assert store.read_verdict(SPEC) is None
