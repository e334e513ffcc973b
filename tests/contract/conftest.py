"""The engines that must keep the contract, the real ones on tiny models."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.protocol import Engine
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.load import ENGINES
from embedd.types import Pooling
from tests.needs import require_openvino
from tests.tiny_models import write_tiny_bert, write_tiny_decoder

CONTEXT = 64


def make_spec(path: Path, pooling: Pooling, *, context: int = CONTEXT) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        digest="sha256:" + "0" * 64,
        path=path,
        pooling=pooling,
        context_length=context,
        vocabulary=0,
        width=0,
        weights=0,
    )


OpenEngine = Callable[[Pooling], Engine]


def find_engine(kind: str) -> type[Any]:
    """The class that a kind of model is opened with; skips where it is not installed."""
    if kind == "openvino":
        require_openvino()
    place = ENGINES[kind if kind in ENGINES else "llama"]
    module, name = place.split(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture(params=["fake", "bert", "decoder", "openvino"])
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenEngine]:
    """Opens the engine with a pooling; closes all at the end."""
    opened: list[Engine] = []
    kind = request.param

    def open_one(pooling: Pooling) -> Engine:
        path = tmp_path / "tiny.gguf"
        if kind == "decoder":
            write_tiny_decoder(path, pooling="last", context=CONTEXT, add_eos=True)
        else:
            rank = pooling is Pooling.RANK
            write_tiny_bert(
                path,
                context=CONTEXT,
                pooling="rank" if rank else "mean",
                head=["no", "yes"] if rank else None,
            )
        opened.append(
            find_engine(kind).load(make_spec(path, pooling), LLAMA_BACKENDS[0], threads=1)
        )
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()
