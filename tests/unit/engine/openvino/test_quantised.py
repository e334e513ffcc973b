"""Every type of weights that llama.cpp makes is read as llama.cpp reads it, or refused.

The oracle computes with float32 weights that llama.cpp itself made of the quantised ones: on
those it rounds nothing else.
"""

from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.protocol import UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.gguf.header import read_header_file
from embedd.resolve import Resolver
from embedd.store.store import Store
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.needs import require_openvino
from tests.requantize import requantize
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert
from tests.unit.engine.openvino.test_families import TOLERANCE, distances, make_sequences

require_openvino()
from embedd.engine.openvino.engine import OpenVinoEngine
from embedd.engine.openvino.families import build_graph
from embedd.engine.openvino.tensors import Gguf

CONTEXT = 64
ROW = 256  # numbers that share a scale, in the types with a K

# Each file type, with the type that llama.cpp gives all matrices where it may not mix.
PURE = {
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q2_K": "Q2_K",
    "Q3_K_M": "Q3_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "IQ3_S": "IQ3_S",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
    "TQ1_0": "TQ1_0",
    "TQ2_0": "TQ2_0",
}
# Rows of 384 numbers do not fit types whose scales are for 256: others stand in for them.
MIXED = {
    "IQ4_NL": {"IQ4_NL", "Q8_0"},
    "Q3_K_M": {"Q4_0", "Q4_K", "Q5_0", "Q5_1", "Q8_0"},
    "Q4_K_M": {"Q4_K", "Q5_0", "Q6_K", "Q8_0"},
    "Q5_K_M": {"Q5_1", "Q5_K", "Q6_K", "Q8_0"},
}


def read_types(path: Path) -> set[str]:
    """Types of the matrices that were quantised."""
    return {tensor.type for tensor in read_header_file(path).tensors} - {"F32"}


def measure(spec: ModelSpec, exact: ModelSpec) -> float:
    """How far OpenVINO's vectors of *spec* are from llama.cpp's of *exact*, at the most."""
    ours = OpenVinoEngine.load(spec, OPENVINO_F32, threads=1)
    theirs = LlamaEngine.load(exact, LLAMA_BACKENDS[-1], threads=1)
    try:
        sequences = make_sequences([1, 2, 7, 33, CONTEXT])
        there = np.concatenate([theirs.encode([ids]) for ids in sequences])
        return float(distances(ours.encode(sequences), there).max())
    finally:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("file_type", PURE)
def test_every_type_is_read_as_llama_cpp_reads_it(file_type: str, tmp_path: Path) -> None:
    plain = write_tiny_bert(tmp_path / "plain.gguf", width=ROW, layers=2, context=CONTEXT)
    path = requantize(plain, tmp_path / "small.gguf", file_type, pure=True)
    assert read_types(path) == {PURE[file_type]}
    exact = requantize(path, tmp_path / "exact.gguf", "F32", pure=True)
    assert read_types(exact) == set()
    specs = [make_spec(one, Pooling.MEAN, context=CONTEXT) for one in (path, exact)]
    assert measure(*specs) <= TOLERANCE["f32"]


@pytest.mark.parametrize("file_type", MIXED)
def test_the_default_model_keeps_its_vectors_in_every_mixture(
    file_type: str, default_store: Path, tmp_path: Path
) -> None:
    spec = Resolver(Store(default_store)).resolve("all-minilm:f32").spec
    path = requantize(spec.path, tmp_path / "small.gguf", file_type, pure=False)
    assert read_types(path) == MIXED[file_type]
    exact = requantize(path, tmp_path / "exact.gguf", "F32", pure=False)
    specs = [make_spec(one, Pooling.MEAN, context=512) for one in (path, exact)]
    assert measure(*specs) <= TOLERANCE["f32"]


def test_a_type_that_only_llama_cpp_reads_is_refused(tmp_path: Path) -> None:
    plain = write_tiny_bert(tmp_path / "plain.gguf", width=ROW, context=CONTEXT)
    path = requantize(plain, tmp_path / "small.gguf", "Q1_0", pure=True)
    assert read_types(path) == {"Q1_0"}
    spec = make_spec(path, Pooling.MEAN, context=CONTEXT)
    with pytest.raises(UnsuitableError, match="has the type Q1_0"):
        OpenVinoEngine.load(spec, OPENVINO_F32, threads=1)
    engine = LlamaEngine.load(spec, LLAMA_BACKENDS[-1], threads=1)
    assert np.isfinite(engine.encode(make_sequences([9]))).all()
    engine.close()


@pytest.mark.parametrize(
    ("file_type", "kept"), [("F16", "f16"), ("BF16", "f16"), ("Q8_0", "f16"), ("F32", "f32")]
)
def test_token_embeddings_stay_in_16_bits_unless_the_file_has_32(
    file_type: str, kept: str, tmp_path: Path
) -> None:
    """Of a large vocabulary it is most of the model."""
    plain = write_tiny_bert(tmp_path / "plain.gguf", context=CONTEXT)
    path = requantize(plain, tmp_path / "small.gguf", file_type, pure=True)
    graph = build_graph(Gguf([path]), Pooling.MEAN)
    [found] = {
        node.get_element_type().get_type_name()
        for node in graph.get_ops()
        if node.get_type_name() == "Constant" and list(node.shape)[:1] == [len(TINY_VOCABULARY)]
    }
    assert found == kept
