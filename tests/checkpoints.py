"""Tiny sentence-transformers checkpoints of every family that is converted.

The weights are those of the family's GGUF in `tests.families`, under the names that the
reference implementation has for them; the tokenizers are trained here.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from embedd.types import Pooling
from tests.families import FAMILIES, gemma, modern_bert
from tests.families.family import LABELS, Weights, read_weights
from tests.families.random import TensorSource
from tests.tiny_models import write_json, write_safetensors, write_shards
from tests.unit.tokenizers import vocabularies
from tests.unit.tokenizers.vocabularies import BERT_SPECIAL, MARK, read_model

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
XLM_NAMES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
IMAGE = "<image_soft_token>"
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

Config = dict[str, Any]
Tensors = dict[str, Any]


def wordpiece() -> Tokenizer:
    """As BERT's."""
    tokenizer = vocabularies.train_wordpiece(lowercase=True)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in BERT_SPECIAL])
    return frame(tokenizer, "[CLS]", "[SEP]")


def unigram(*, variant: str = "words") -> Tokenizer:
    """As XLM-R's, by one of the *variant* steps that different releases wrote."""
    charsmap = vocabularies.compile_nfkc()
    tokenizer = vocabularies.train_unigram(charsmap)
    mark = pre_tokenizers.Metaspace(prepend_scheme="always")
    if variant != "words":
        tokenizer.pre_tokenizer = mark
        tidied = normalizers.Replace(Regex(" {2,}"), MARK if variant == "stripped" else " ")
        strip = [normalizers.Strip(left=False, right=True)] if variant == "stripped" else []
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Precompiled(charsmap), *strip, tidied]
        )
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in XLM_NAMES[:4]])
    tokenizer.add_special_tokens([AddedToken("<mask>", normalized=False, lstrip=True)])
    return frame(tokenizer, "<s>", "</s>", middle=2)


def byte_pairs_of_roberta() -> Tokenizer:
    tokenizer = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in XLM_NAMES[:4]])
    tokenizer.add_special_tokens([AddedToken("<mask>", normalized=False, lstrip=True)])
    sep, cls = ((one, tokenizer.get_vocab()[one]) for one in ("</s>", "<s>"))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    return tokenizer


def byte_pairs_of_modern_bert() -> Tokenizer:
    tokenizer = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * size) for size in range(4, 1, -1)])
    tokenizer.add_special_tokens(list(BERT_SPECIAL[:-1]))
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return frame(tokenizer, "[CLS]", "[SEP]")


def byte_pairs_of_qwen() -> Tokenizer:
    words = [
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer = vocabularies.train_byte_pairs(pre_tokenizers.Sequence(words))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in CHAT])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    ending = frame(tokenizer, "", CHAT[0]).post_processor
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), ending])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Gemma's: every pair of tokens that is a token together is a merge."""
    trained = vocabularies.train_byte_pairs(
        pre_tokenizers.Metaspace(prepend_scheme="never"), size=1000
    )
    letters = sorted({letter for text in vocabularies.CORPUS for letter in text} - {" "})
    learnt = ["".join(pair) for pair in read_model(trained)["merges"]]
    spaces = [MARK * size for size in range(2, 6)]
    names = [*GEMMA_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *spaces, MARK, *letters]
    names += [one for one in dict.fromkeys(learnt) if one not in names]
    ids = {name: id_ for id_, name in enumerate(names)}
    merges = [
        (name[:at], name[at:])
        for name in names[4 + 256 :]
        for at in range(1, len(name))
        if name[:at] in ids and name[at:] in ids
    ]
    tokenizer = Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", MARK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in GEMMA_SPECIAL])
    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in spaces])
    return frame(tokenizer, "<bos>", "<eos>")


def frame(tokenizer: Tokenizer, before: str, after: str, *, middle: int = 1) -> Tokenizer:
    """*tokenizer* that puts tokens around texts, and *middle* times *after* between a pair."""
    names = [name for name in (before, after) if name]
    lead, ends = [before] if before else [], [after] * middle
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*lead, "$A", after],
        pair=[*lead, "$A", *ends, "$B", after],
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )
    return tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A checkpoint and the family that computes it.

    Args:
        family: Name in `FAMILIES`.
        config: ``config.json`` without sizes that follow from the rest.
        names: Expressions for tensors of the GGUF and their names in the checkpoint.
        tokenizer: Trains its tokenizer.
        roles: ``tokenizer_config.json``.
        skipped: Rows before the first of the position matrix.
        norms_without_one: Whether norms are stored as what they differ from 1.
        scorer: ``architectures`` of its cross-encoder.
        dense: Names of the modules after pooling.
        spare: Ids without a token.
    """

    family: str
    config: Config
    names: Mapping[str, str]
    tokenizer: Callable[[], Tokenizer]
    roles: Config = field(default_factory=dict)
    skipped: int = 0
    norms_without_one: bool = False
    scorer: str | None = None
    dense: tuple[str, ...] = ()
    spare: int = 3


def write_sample(
    folder: Path, sample: Sample, pooling: Pooling, *, dtype: str = "F32", shards: int = 1
) -> Weights:
    """Write the checkpoint; return its weights by their names in a GGUF, in float64."""
    folder.mkdir(parents=True)
    tokenizer = sample.tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", sample.roles)
    size = tokenizer.get_vocab_size() + sample.spare
    weights = make_weights(folder / "family.gguf", sample, pooling, size)
    config = {**sample.config, "vocab_size": size}
    if pooling is Pooling.RANK:
        config |= {
            "architectures": [sample.scorer],
            "id2label": {str(at): label for at, label in enumerate(LABELS)},
        }
    else:
        write_modules(folder, pooling, dense=sample.dense)
    write_json(folder / "config.json", config)
    tensors = {to_source(name, sample.names): array for name, array in weights.items()}
    for at, name in enumerate(sample.dense, start=2):
        array = tensors.pop(f"dense_{at}.weight")
        options = {
            "in_features": array.shape[1],
            "out_features": array.shape[0],
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        write_json(folder / name / "config.json", options)
        stored = {"linear.weight": array.astype(np.float32)}
        write_safetensors(folder / name / "model.safetensors", stored, dtype=dtype)
    write_shards(folder, stored_as(sample, tensors), dtype=dtype, shards=shards)
    return weights


def make_weights(path: Path, sample: Sample, pooling: Pooling, size: int) -> Weights:
    """The weights of the family with embeddings for *size* tokens."""
    weights = dict(read_weights(FAMILIES[sample.family].write(path, pooling)))
    path.unlink()
    width = weights["token_embd.weight"].shape[1]
    scale = 1.0 if sample.family.startswith("gemma") else width**0.5
    source = TensorSource(5)
    weights["token_embd.weight"] = source.matrix(size, width, scale).astype(np.float64)
    # Checkpoints of RoBERTa have types that its GGUFs may lack.
    if (types := sample.config.get("type_vocab_size")) and "token_types.weight" not in weights:
        weights["token_types.weight"] = source.matrix(types, width, scale).astype(np.float64)
    return weights


def to_source(name: str, names: Mapping[str, str]) -> str:
    """The name in the checkpoint of a tensor of the GGUF."""
    for pattern, source in names.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(source)
    return name


def stored_as(sample: Sample, tensors: Mapping[str, Any]) -> Tensors:
    """*tensors* as the checkpoint has their values."""
    stored = {}
    for name, array in tensors.items():
        values = array.astype(np.float32)
        if sample.norms_without_one and "norm" in name:
            values = values - np.float32(1)
        if sample.skipped and "position_embeddings" in name:
            nothing = np.full((sample.skipped, values.shape[1]), 7, np.float32)
            values = np.concatenate([nothing, values])
        stored[name] = values
    return stored


def write_modules(folder: Path, pooling: Pooling, *, dense: Sequence[str] = ()) -> None:
    """``modules.json`` and the config of its pooling."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *(("Dense", name) for name in dense)]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate([*kinds, ("Normalize", f"{len(kinds)}_Normalize")])
    ]
    write_json(folder / "modules.json", modules)
    mode = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[pooling]
    write_json(folder / "1_Pooling/config.json", {f"pooling_mode_{mode}": True})


def read_charsmap(path: Path) -> bytes:
    """The compiled normalization in a ``tokenizer.json``."""
    normalizer = json.loads(path.read_text())["normalizer"]
    return base64.b64decode(normalizer["precompiled_charsmap"])


_BERT_NAMES: Mapping[str, str] = {
    r"token_embd\.weight": "embeddings.word_embeddings.weight",
    r"position_embd\.weight": "embeddings.position_embeddings.weight",
    r"token_types\.weight": "embeddings.token_type_embeddings.weight",
    r"token_embd_norm\.(\w+)": r"embeddings.LayerNorm.\1",
    r"blk\.(\d)\.attn_q\.(\w+)": r"encoder.layer.\1.attention.self.query.\2",
    r"blk\.(\d)\.attn_k\.(\w+)": r"encoder.layer.\1.attention.self.key.\2",
    r"blk\.(\d)\.attn_v\.(\w+)": r"encoder.layer.\1.attention.self.value.\2",
    r"blk\.(\d)\.attn_output\.(\w+)": r"encoder.layer.\1.attention.output.dense.\2",
    r"blk\.(\d)\.attn_output_norm\.(\w+)": r"encoder.layer.\1.attention.output.LayerNorm.\2",
    r"blk\.(\d)\.ffn_up\.(\w+)": r"encoder.layer.\1.intermediate.dense.\2",
    r"blk\.(\d)\.ffn_down\.(\w+)": r"encoder.layer.\1.output.dense.\2",
    r"blk\.(\d)\.layer_output_norm\.(\w+)": r"encoder.layer.\1.output.LayerNorm.\2",
}
_BERT: Config = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
}
_ROBERTA = {**_BERT, "max_position_embeddings": 98, "pad_token_id": 1}
_ROBERTA_NAMES = {
    **_BERT_NAMES,
    r"cls\.output\.(\w+)": r"classifier.out_proj.\1",
    r"cls\.(\w+)": r"classifier.dense.\1",
}
_MODERN_BERT: Config = {
    "model_type": "modernbert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "max_position_embeddings": 96,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "global_attn_every_n_layers": 3,
    "local_attention": modern_bert.WINDOW,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
}
_MODERN_BERT_NAMES: Mapping[str, str] = {
    r"token_embd\.weight": "embeddings.tok_embeddings.weight",
    r"token_embd_norm\.weight": "embeddings.norm.weight",
    r"output_norm\.weight": "final_norm.weight",
    r"blk\.(\d)\.attn_norm\.weight": r"layers.\1.attn_norm.weight",
    r"blk\.(\d)\.attn_qkv\.weight": r"layers.\1.attn.Wqkv.weight",
    r"blk\.(\d)\.attn_output\.weight": r"layers.\1.attn.Wo.weight",
    r"blk\.(\d)\.ffn_norm\.weight": r"layers.\1.mlp_norm.weight",
    r"blk\.(\d)\.ffn_up\.weight": r"layers.\1.mlp.Wi.weight",
    r"blk\.(\d)\.ffn_down\.weight": r"layers.\1.mlp.Wo.weight",
    r"cls\.weight": "head.dense.weight",
    r"cls\.norm\.weight": "head.norm.weight",
    r"cls\.output\.(\w+)": r"classifier.\1",
}
_MODERN_BERT_ROLES: Config = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}
_XLM_ROLES: Config = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": {"content": "<mask>", "lstrip": True},
}
_DECODER_NAMES: Mapping[str, str] = {
    r"token_embd\.weight": "embed_tokens.weight",
    r"output_norm\.weight": "norm.weight",
    r"blk\.(\d)\.attn_norm\.weight": r"layers.\1.input_layernorm.weight",
    r"blk\.(\d)\.attn_([qkv])\.weight": r"layers.\1.self_attn.\2_proj.weight",
    r"blk\.(\d)\.attn_([qk])_norm\.weight": r"layers.\1.self_attn.\2_norm.weight",
    r"blk\.(\d)\.attn_output\.weight": r"layers.\1.self_attn.o_proj.weight",
    r"blk\.(\d)\.ffn_(gate|up|down)\.weight": r"layers.\1.mlp.\2_proj.weight",
}
_DECODER: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 96,
}

SAMPLES: Mapping[str, Sample] = {
    "bert": Sample(
        family="bert",
        config={**_BERT, "model_type": "bert", "max_position_embeddings": 96},
        names={
            **_BERT_NAMES,
            r"cls\.output\.(\w+)": r"classifier.\1",
            r"cls\.(\w+)": r"pooler.dense.\1",
        },
        tokenizer=wordpiece,
        scorer="BertForSequenceClassification",
    ),
    # paraphrase-multilingual-MiniLM-L12-v2
    "bert, unigram": Sample(
        family="bert",
        config={**_BERT, "model_type": "bert", "max_position_embeddings": 96},
        names=_BERT_NAMES,
        tokenizer=unigram,
        roles=_XLM_ROLES,
    ),
    # bge-m3, multilingual-e5, bge-reranker-v2-m3
    "xlm-roberta": Sample(
        family="xlm-roberta",
        config={**_ROBERTA, "model_type": "xlm-roberta", "type_vocab_size": 1},
        names={key: f"roberta.{name}" for key, name in _BERT_NAMES.items()}
        | {key: name for key, name in _ROBERTA_NAMES.items() if name.startswith("classifier")},
        tokenizer=lambda: unigram(variant="stripped"),
        roles=_XLM_ROLES,
        skipped=2,
        scorer="XLMRobertaForSequenceClassification",
    ),
    # all-distilroberta-v1
    "roberta": Sample(
        family="roberta",
        config={**_ROBERTA, "model_type": "roberta", "type_vocab_size": 1},
        names=_ROBERTA_NAMES,
        tokenizer=byte_pairs_of_roberta,
        roles=_XLM_ROLES,
        skipped=2,
        scorer="RobertaForSequenceClassification",
    ),
    # nomic-embed-text-v1.5
    "nomic": Sample(
        family="nomic-bert",
        config={
            "model_type": "nomic_bert",
            "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBert"},
            "activation_function": "swiglu",
            "n_embd": 32,
            "n_inner": 64,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 384,
            "max_trained_positions": 96,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": 2,
            "type_vocab_size": 2,
            "causal": False,
            "prenorm": False,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
        },
        names={
            r"token_embd\.weight": "embeddings.word_embeddings.weight",
            r"token_types\.weight": "embeddings.token_type_embeddings.weight",
            r"token_embd_norm\.(\w+)": r"emb_ln.\1",
            r"blk\.(\d)\.attn_qkv\.weight": r"encoder.layers.\1.attn.Wqkv.weight",
            r"blk\.(\d)\.attn_output\.weight": r"encoder.layers.\1.attn.out_proj.weight",
            r"blk\.(\d)\.attn_output_norm\.(\w+)": r"encoder.layers.\1.norm1.\2",
            # fc12 is what is activated
            r"blk\.(\d)\.ffn_up\.weight": r"encoder.layers.\1.mlp.fc11.weight",
            r"blk\.(\d)\.ffn_gate\.weight": r"encoder.layers.\1.mlp.fc12.weight",
            r"blk\.(\d)\.ffn_down\.weight": r"encoder.layers.\1.mlp.fc2.weight",
            r"blk\.(\d)\.layer_output_norm\.(\w+)": r"encoder.layers.\1.norm2.\2",
        },
        tokenizer=wordpiece,
    ),
    # gte-modernbert-base, gte-reranker-modernbert-base
    "modernbert": Sample(
        family="modern-bert",
        config={**_MODERN_BERT, "hidden_activation": "gelu", "classifier_pooling": "mean"},
        names=_MODERN_BERT_NAMES,
        tokenizer=byte_pairs_of_modern_bert,
        roles=_MODERN_BERT_ROLES,
        scorer="ModernBertForSequenceClassification",
    ),
    # The same as later releases of transformers write it
    "modernbert, rope_parameters": Sample(
        family="modern-bert with silu",
        config={
            **{key: value for key, value in _MODERN_BERT.items() if "rope_theta" not in key},
            "hidden_activation": "silu",
            "classifier_pooling": "cls",
            "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
        names={key: f"model.{name}" for key, name in _MODERN_BERT_NAMES.items()}
        | {key: name for key, name in _MODERN_BERT_NAMES.items() if key.startswith("cls")},
        tokenizer=byte_pairs_of_modern_bert,
        roles=_MODERN_BERT_ROLES,
        scorer="ModernBertForSequenceClassification",
    ),
    "qwen3": Sample(
        family="qwen3",
        config={
            **_DECODER,
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "rope_theta": 10000,
            "hidden_act": "silu",
            "attention_bias": False,
            "use_sliding_window": False,
            "rope_scaling": None,
        },
        names={
            **_DECODER_NAMES,
            r"blk\.(\d)\.ffn_norm\.weight": r"layers.\1.post_attention_layernorm.weight",
        },
        tokenizer=byte_pairs_of_qwen,
        roles={"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "embeddinggemma": Sample(
        family="gemma-embedding",
        config={
            **_DECODER,
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "use_bidirectional_attention": True,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": gemma.WINDOW,
            "_sliding_window_pattern": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
        },
        names={
            **_DECODER_NAMES,
            r"blk\.(\d)\.post_attention_norm\.weight": (
                r"layers.\1.post_attention_layernorm.weight"
            ),
            r"blk\.(\d)\.ffn_norm\.weight": r"layers.\1.pre_feedforward_layernorm.weight",
            r"blk\.(\d)\.post_ffw_norm\.weight": r"layers.\1.post_feedforward_layernorm.weight",
        },
        tokenizer=sentencepiece,
        roles={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        norms_without_one=True,
        dense=("2_Dense", "3_Dense"),
    ),
}
