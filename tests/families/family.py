"""A family of models: its file, and its arithmetic without any engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from embedd.types import Pooling

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]
Ids = Sequence[int] | npt.NDArray[np.int32]

ALL_POOLINGS = (Pooling.MEAN, Pooling.CLS, Pooling.LAST)
LABELS = ("no", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of model: how its file is written and how its vectors are computed by hand.

    Args:
        name: What users call it; unique.
        architecture: ``general.architecture`` of its GGUF.
        tokenizer: ``tokenizer.ggml.model`` of its GGUF.
        poolings: Those to test besides ``Pooling.NONE``; the first is the usual one.
        context: Tokens of the longest sequence.
        window: Tokens of the attention window; 0 if every token sees all others.
        openvino: Whether OpenVINO computes it; if not, it must refuse the file.
        write: Writes a tiny seeded GGUF with this pooling, or without the key for None; for
            ``Pooling.RANK`` with a score head.
        forward: Weights of the file and token ids → hidden states (tokens, width), in float64.
        score: Weights and hidden states of one text → scores (labels,); None without a head.
        project: Weights and a pooled vector → the vector; None where pooling is the last step.
        conversion: How a checkpoint becomes a GGUF; "" if embedd does not convert it.
        note: What users should know.
        refused: Whether embedd refuses its files, because llama.cpp computes other vectors.
        listed: Whether it is a family of its own to users, not another form of one's files.
        unseen: Tensors that cannot show in a vector.
    """

    name: str
    architecture: str
    tokenizer: str
    poolings: tuple[Pooling, ...] = ALL_POOLINGS
    context: int
    window: int = 0
    openvino: bool
    write: Callable[[Path, Pooling | None], Path]
    forward: Callable[[Weights, Ids], Array]
    score: Callable[[Weights, Array], Array] | None = None
    project: Callable[[Weights, Array], Array] | None = None
    conversion: str = ""
    note: str = ""
    refused: bool = False
    listed: bool = True
    unseen: frozenset[str] = frozenset()

    @property
    def rerank(self) -> bool:
        """Whether there are cross-encoders of this family."""
        return self.score is not None

    def embed(self, weights: Weights, hidden: Array, pooling: Pooling) -> Array:
        """Return what an engine returns for a text with these hidden states."""
        if pooling is Pooling.RANK:
            assert self.score is not None
            return self.score(weights, hidden)
        pooled = pool(hidden, pooling)
        return pooled if self.project is None else self.project(weights, pooled)


def pool(hidden: Array, pooling: Pooling) -> Array:
    """Pool hidden states (tokens, width) to a vector; ``Pooling.NONE`` keeps them."""
    match pooling:
        case Pooling.MEAN:
            pooled = hidden.mean(axis=0)
        case Pooling.CLS:
            pooled = hidden[0]
        case Pooling.LAST:
            pooled = hidden[-1]
        case _:
            pooled = hidden
    return np.asarray(pooled)


def read_weights(path: Path) -> Weights:
    """Return the tensors of a GGUF by name, as float64, matrices as (out, in)."""
    reader = gguf.GGUFReader(path)
    return {
        tensor.name: np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float64).reshape(
            [int(size) for size in tensor.shape[::-1]]
        )
        for tensor in reader.tensors
    }


Keys = Mapping[str, Any]
"""Keys of a GGUF without the architecture before them: int, float, bool, str, or a list."""


def write_gguf(
    path: Path,
    architecture: str,
    *,
    keys: Keys,
    pooling: Pooling | None,
    add_tokenizer: Callable[[gguf.GGUFWriter], None],
    tensors: Mapping[str, npt.NDArray[Any]],
    labels: Sequence[str] = LABELS,
) -> Path:
    """Write a GGUF with float32 tensors; *labels* name the scores of ``Pooling.RANK``."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for key, value in keys.items():
        _add_key(writer, f"{architecture}.{key}", value)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType[pooling.name])
    if pooling is Pooling.RANK:
        writer.add_classifier_output_labels(labels)
    add_tokenizer(writer)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
