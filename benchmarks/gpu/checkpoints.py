"""Seeded checkpoints of real sizes, so that no weights need to be downloaded."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Half = npt.NDArray[np.float16]
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MODULES: Final = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
POSITIONS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of a BERT, with which bge, arctic-embed and others differ from each other."""

    width: int
    inner: int
    layers: int
    heads: int


BASE: Final = Size(width=768, inner=3072, layers=12, heads=12)
LARGE: Final = Size(width=1024, inner=4096, layers=24, heads=16)


def write_checkpoint(folder: Path, size: Size, tokenizer: Path, seed: int = 1) -> Path:
    """Write a BERT with random float16 weights and the tokenizer of the folder *tokenizer*."""
    (folder / "1_Pooling").mkdir(parents=True)
    for name in (*TOKENIZER_FILES, "vocab.txt"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    vocabulary = len((tokenizer / "vocab.txt").read_text().splitlines())
    _write(folder / "config.json", make_config(size, vocabulary))
    kinds = [f"sentence_transformers.models.{kind}" for kind, _ in MODULES]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": kind}
        for at, (kind, (_, path)) in enumerate(zip(kinds, MODULES, strict=True))
    ]
    _write(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": size.width, "pooling_mode_mean_tokens": True}
    _write(folder / "1_Pooling" / "config.json", pooling)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": POSITIONS})
    save_file(dict(make_tensors(size, vocabulary, seed)), folder / "model.safetensors")
    return folder


def make_config(size: Size, vocabulary: int) -> dict[str, object]:
    """``config.json`` of a BERT."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float16",
        "hidden_act": "gelu",
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
    }


def make_tensors(size: Size, vocabulary: int, seed: int) -> Iterator[tuple[str, Half]]:
    """Tensors under their names in a checkpoint.

    Matrices keep the length of what they are applied to, so that every layer shows in the
    vectors, and different texts have different ones.
    """
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> Half:
        return (random.standard_normal((rows, columns), np.float32) * scale).astype(np.float16)

    def norm(name: str) -> Iterator[tuple[str, Half]]:
        yield f"{name}.weight", np.ones(size.width, np.float16)
        yield f"{name}.bias", np.zeros(size.width, np.float16)

    def dense(name: str, rows: int, columns: int) -> Iterator[tuple[str, Half]]:
        yield f"{name}.weight", matrix(rows, columns, columns**-0.5)
        yield f"{name}.bias", matrix(1, rows, 0.1)[0]

    rows = {"word": vocabulary, "position": POSITIONS, "token_type": 2}
    for name, count in rows.items():
        yield f"embeddings.{name}_embeddings.weight", matrix(count, size.width, 1.0)
    yield from norm("embeddings.LayerNorm")
    for layer in range(size.layers):
        block = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from dense(f"{block}.attention.self.{part}", size.width, size.width)
        yield from dense(f"{block}.attention.output.dense", size.width, size.width)
        yield from norm(f"{block}.attention.output.LayerNorm")
        yield from dense(f"{block}.intermediate.dense", size.inner, size.width)
        yield from dense(f"{block}.output.dense", size.width, size.inner)
        yield from norm(f"{block}.output.LayerNorm")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
