"""What embedd refuses because llama.cpp computes it wrongly, llama.cpp does compute wrongly."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.llama.model import LlamaModel
from embedd.errors import ModelLoadError
from embedd.gguf.faults import SCORED, find_fault
from embedd.gguf.header import read_header_file
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.families import FAMILIES, gemma
from tests.families.family import Array, pool, read_weights

ARCHITECTURES = {one.architecture: one for one in FAMILIES.values() if not one.refused}


def rewrite(source: Path, target: Path, *, tensors: Mapping[str, Array]) -> Path:
    """Copy a GGUF and add *tensors*."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for name, array in tensors.items():
        writer.add_tensor(name, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def loads(path: Path) -> bool:
    try:
        LlamaModel(path, extra_buffers=False, gpu_layers=0).close()
    except ModelLoadError:
        return False
    return True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_reads_score_heads_of_the_architectures_that_are_listed(
    architecture: str, tmp_path: Path
) -> None:
    family = ARCHITECTURES[architecture]
    plain = family.write(tmp_path / "plain.gguf", family.poolings[0])
    width = read_header_file(plain).embedding_length
    assert width is not None
    # Of one number, as llama.cpp expects without labels; jina-bert-v2 has no other tensor.
    name = "cls.weight" if architecture == "jina-bert-v2" else "cls.output.weight"
    path = rewrite(plain, tmp_path / "head.gguf", tensors={name: np.ones((1, width))})
    assert loads(plain)
    assert loads(path) is (architecture in SCORED)
    assert (find_fault(read_header_file(path), family.poolings[0]) is None) is loads(path)


def test_a_window_without_a_direction_is_computed_on_one_side_only(tmp_path: Path) -> None:
    path = gemma.write(
        tmp_path / "tiny.gguf",
        Pooling.MEAN,
        architecture="gemma3",
        keys=gemma.GEMMA3_KEYS | {"attention.causal": False},
        layers=gemma.LAYERS,
        project=False,
    )
    assert find_fault(read_header_file(path), Pooling.MEAN) is not None
    ids = np.arange(3, 3 + 5 * gemma.WINDOW, dtype=np.int32)
    definition = replace(gemma.GEMMA3, causal=False)
    expected = pool(definition.forward(read_weights(path), ids), Pooling.MEAN)
    engine = LlamaEngine.load(make_spec(path, Pooling.MEAN), LLAMA_BACKENDS[0], threads=1)
    try:
        [got] = engine.encode([ids])
    finally:
        engine.close()
    assert got @ expected / np.linalg.norm(got) / np.linalg.norm(expected) < 0.99
