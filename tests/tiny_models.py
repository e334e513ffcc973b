"""Tiny seeded models that llama.cpp loads: encoders, decoders and a checkpoint folder.

Their vectors mean nothing, but differ from text to text and are the same for the same seed.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY_WORDS = ("why", "is", "the", "sky", "blue", "hello", "world", "query", "document", "test")
TINY_VOCABULARY: tuple[str, ...] = (
    *SPECIAL_TOKENS,
    *"0123456789abcdefghijklmnopqrstuvwxyz.,:;!?-'\"()",
    *(f"##{piece}" for piece in "0123456789abcdefghijklmnopqrstuvwxyz"),
    *TINY_WORDS,
    "##ing",
)
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
END_OF_TEXT = "<|endoftext|>"


def write_tiny_bert(
    path: Path,
    *,
    width: int = 32,
    layers: int = 1,
    heads: int = 2,
    context: int = 64,
    pooling: str | None = "mean",
    vocabulary: Sequence[str] | None = None,
    seed: int = 0,
    weights: str = "f32",
    head: Sequence[str] | None = None,
    split: int = 0,
) -> Path:
    """A BERT encoder; *vocabulary* is written as WordPiece does (``##ing``).

    *split* writes so many tensors to a file, and returns the first: see `find_parts`.

    *pooling* None leaves the key out. *head* adds a score head with these labels, for
    ``pooling="rank"``; without it a rank file is one that must be refused.
    """
    tokens = TINY_VOCABULARY if vocabulary is None else tuple(vocabulary)
    writer = gguf.GGUFWriter(path, "bert", split_max_tensors=split)
    _add_sizes(writer, width=width, layers=layers, heads=heads, context=context)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_file_type(FILE_TYPES[weights])
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    if head is not None:
        writer.add_classifier_output_labels(head)
    _add_wordpiece(writer, tokens)
    random = np.random.default_rng(seed)
    for name, array in bert_tensors(
        random, width=width, layers=layers, context=context, vocabulary=len(tokens)
    ).items():
        _add_tensor(writer, _to_gguf_name(name), array, weights)
    if head is not None:
        _add_tensor(writer, "cls.weight", _matrix(random, width, width), "f32")
        _add_tensor(writer, "cls.bias", _vector(random, width), "f32")
        _add_tensor(writer, "cls.output.weight", _matrix(random, len(head), width), "f32")
        _add_tensor(writer, "cls.output.bias", _vector(random, len(head)), "f32")
    _written(writer, path)
    return find_parts(path)[0] if split else path


def find_parts(path: Path) -> list[Path]:
    """The files of the split GGUF that was written as *path*, in order."""
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))


def write_tiny_decoder(
    path: Path,
    *,
    pooling: str | None = None,
    layers: int = 2,
    width: int = 32,
    heads: int = 2,
    context: int = 128,
    seed: int = 0,
    add_eos: bool = False,
) -> Path:
    """A qwen2 decoder over bytes and a few merges; without *pooling* a plain language model.

    *add_eos* makes the tokenizer end every text with the end-of-text token.
    """
    tokens, merges = _byte_pairs()
    writer = gguf.GGUFWriter(path, "qwen2")
    _add_sizes(writer, width=width, layers=layers, heads=heads, context=context)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(0)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token == END_OF_TEXT else normal for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(END_OF_TEXT))
    writer.add_pad_token_id(tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(add_eos)
    random = np.random.default_rng(seed)
    for name, array in _decoder_tensors(random, len(tokens), width, layers):
        writer.add_tensor(name, array)
    return _written(writer, path)


def write_tiny_checkpoint(
    folder: Path,
    *,
    width: int = 32,
    layers: int = 1,
    heads: int = 2,
    context: int = 64,
    pooling: str | None = "mean",
    vocabulary: Sequence[str] | None = None,
    seed: int = 0,
    dtype: str = "F32",
    shards: int = 1,
    labels: Sequence[str] | None = None,
) -> Path:
    """A sentence-transformers BERT checkpoint; its tensors are `checkpoint_tensors`.

    *labels* make it a cross-encoder with one score per label, without ``modules.json``.
    *shards* above 1 spreads the tensors over as many files with an index.
    """
    tokens = TINY_VOCABULARY if vocabulary is None else tuple(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, object] = {
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": context,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(tokens),
    }
    if labels:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True})
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    if not labels:
        _write_modules(folder, width=width, pooling=pooling, context=context)
    tensors = checkpoint_tensors(
        width=width,
        layers=layers,
        context=context,
        vocabulary=len(tokens),
        seed=seed,
        labels=len(labels or ()),
    )
    write_shards(folder, tensors, dtype=dtype, shards=shards)
    return folder


def checkpoint_tensors(
    *, width: int, layers: int, context: int, vocabulary: int, seed: int = 0, labels: int = 0
) -> dict[str, Array]:
    """Source name → f32 array, as in the checkpoint; a cross-encoder has ``bert.`` names."""
    random = np.random.default_rng(seed)
    tensors = bert_tensors(
        random, width=width, layers=layers, context=context, vocabulary=vocabulary
    )
    tensors["embeddings.position_ids"] = np.arange(context, dtype=np.int64)[None]
    tensors["pooler.dense.weight"] = _matrix(random, width, width)
    tensors["pooler.dense.bias"] = _vector(random, width)
    if not labels:
        return tensors
    tensors = {f"bert.{name}": array for name, array in tensors.items()}
    tensors["classifier.weight"] = _matrix(random, labels, width)
    tensors["classifier.bias"] = _vector(random, labels)
    return tensors


def bert_tensors(
    random: np.random.Generator, *, width: int, layers: int, context: int, vocabulary: int
) -> dict[str, Array]:
    """The tensors of a bare BERT under the names of its checkpoints."""
    tensors = {
        "embeddings.word_embeddings.weight": 3 * _matrix(random, vocabulary, width),
        "embeddings.position_embeddings.weight": _matrix(random, context, width),
        "embeddings.token_type_embeddings.weight": _matrix(random, 2, width),
        **_norm(random, "embeddings.LayerNorm", width),
    }
    for layer in range(layers):
        block = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            tensors |= _dense(random, f"{block}.attention.{part}", width, width)
        tensors |= _norm(random, f"{block}.attention.output.LayerNorm", width)
        tensors |= _dense(random, f"{block}.intermediate.dense", 2 * width, width)
        tensors |= _dense(random, f"{block}.output.dense", width, 2 * width)
        tensors |= _norm(random, f"{block}.output.LayerNorm", width)
    return tensors


def write_shards(
    folder: Path, tensors: Mapping[str, Array], *, dtype: str = "F32", shards: int = 1
) -> None:
    """``model.safetensors``, or as many parts as *shards* and their index."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype=dtype)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(folder / file, part, dtype=dtype)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def write_safetensors(path: Path, tensors: Mapping[str, Array], *, dtype: str = "F32") -> None:
    """A safetensors file; f32 arrays are stored as *dtype* (F32, F16, BF16)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces: list[bytes] = []
    end = 0
    for name, array in tensors.items():
        kind, data = _stored(array, dtype)
        start, end = end, end + len(data)
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
        pieces.append(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def change_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON object in a file; None removes one."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: part for key, part in value.items() if part is not None})


def _stored(array: Array, dtype: str) -> tuple[str, bytes]:
    if array.dtype == np.int64:
        return "I64", array.astype("<i8").tobytes()
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4")
        return "BF16", (bits >> 16).astype("<u2").tobytes()
    return dtype, array.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def _write_modules(folder: Path, *, width: int, pooling: str | None, context: int) -> None:
    kinds = ["Transformer", *(["Pooling"] if pooling else []), "Normalize"]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": context // 2})
    if pooling:
        modes = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
        chosen = {f"pooling_mode_{mode}": kind == pooling for kind, mode in modes.items()}
        chosen["pooling_mode_max_tokens"] = pooling == "max"
        write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **chosen})


def _add_sizes(
    writer: gguf.GGUFWriter, *, width: int, layers: int, heads: int, context: int
) -> None:
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)


def _add_wordpiece(writer: gguf.GGUFWriter, tokens: Sequence[str]) -> None:
    special = set(SPECIAL_TOKENS)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([token if token in special else _marked(token) for token in tokens])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))


def _marked(token: str) -> str:
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _to_gguf_name(name: str) -> str:
    for source, target in (
        ("embeddings.word_embeddings.", "token_embd."),
        ("embeddings.position_embeddings.", "position_embd."),
        ("embeddings.token_type_embeddings.", "token_types."),
        ("embeddings.LayerNorm.", "token_embd_norm."),
        ("encoder.layer.", "blk."),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ):
        name = name.replace(source, target)
    return name


def _add_tensor(writer: gguf.GGUFWriter, name: str, array: Array, weights: str) -> None:
    exact = array.ndim == 1 or name in {"position_embd.weight", "token_types.weight"}
    if exact or weights == "f32":
        writer.add_tensor(name, array)
    elif weights == "f16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _decoder_tensors(
    random: np.random.Generator, vocabulary: int, width: int, layers: int
) -> Iterable[tuple[str, Array]]:
    yield "token_embd.weight", _matrix(random, vocabulary, width)
    yield "output_norm.weight", np.ones(width, np.float32)
    for layer in range(layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", np.ones(width, np.float32)
        for part in ("attn_q", "attn_k", "attn_v"):
            yield f"{block}.{part}.weight", _matrix(random, width, width)
            yield f"{block}.{part}.bias", _vector(random, width)
        yield f"{block}.attn_output.weight", _matrix(random, width, width)
        yield f"{block}.ffn_norm.weight", np.ones(width, np.float32)
        yield f"{block}.ffn_gate.weight", _matrix(random, 2 * width, width)
        yield f"{block}.ffn_up.weight", _matrix(random, 2 * width, width)
        yield f"{block}.ffn_down.weight", _matrix(random, width, 2 * width)


def _byte_pairs() -> tuple[list[str], list[str]]:
    """Tokens and merges: all bytes as GPT-2 writes them, pairs of common letters, one special."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    merges = ["t h", "i n", "e r", "a n", "th e", "Ġ t"]
    tokens = [letters[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in merges]
    return [*tokens, END_OF_TEXT], merges


def _dense(random: np.random.Generator, name: str, rows: int, columns: int) -> dict[str, Array]:
    return {
        f"{name}.weight": _matrix(random, rows, columns),
        f"{name}.bias": _vector(random, rows),
    }


def _norm(random: np.random.Generator, name: str, width: int) -> dict[str, Array]:
    return {
        f"{name}.weight": 1 + _vector(random, width),
        f"{name}.bias": _vector(random, width),
    }


def _matrix(random: np.random.Generator, rows: int, columns: int) -> Array:
    return random.standard_normal((rows, columns), np.float32) / np.float32(columns) ** 0.5


def _vector(random: np.random.Generator, width: int) -> Array:
    return random.standard_normal(width, np.float32) * np.float32(0.1)


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
