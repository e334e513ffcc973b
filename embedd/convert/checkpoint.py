"""A checkpoint folder: sizes, tensors, vocabulary, pooling, lengths and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from embedd.convert.bert import BertConfig, TargetTensor, choose_tensors, parse_config
from embedd.convert.files import read_json, read_json_object, read_optional_object
from embedd.convert.tensors import read_checkpoint_index
from embedd.convert.tokenizer import Vocabulary, read_vocabulary
from embedd.errors import ConversionError
from embedd.types import Pooling

CROSS_ENCODER: Final = "BertForSequenceClassification"
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "mean": Pooling.MEAN,
    "mean_tokens": Pooling.MEAN,
    "cls": Pooling.CLS,
    "cls_token": Pooling.CLS,
    "lasttoken": Pooling.LAST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything that a GGUF of the checkpoint needs, checked.

    Args:
        pooling: RANK for a cross-encoder.
        max_seq_length: Tokens at which the reference pipeline cuts; None if it is not given.
        prompts: Name (``query``, ``document``, ``passage`` …) → text that the model was
            trained to see before an input.
    """

    config: BertConfig
    tensors: tuple[TargetTensor, ...]
    vocabulary: Vocabulary
    pooling: Pooling
    max_seq_length: int | None
    prompts: Mapping[str, str]


def read_checkpoint(source: Path) -> Checkpoint:
    """The checkpoint in the folder *source*; of the weights only an index.

    Raises:
        ConversionError: Something is missing, contradictory or not understood.
    """
    folder, pooling_folder = _read_modules(source)
    raw = read_json_object(folder / "config.json")
    scores = pooling_folder is None
    architectures = raw.get("architectures")
    if scores and architectures != [CROSS_ENCODER]:
        raise ConversionError(
            f"{source} has no modules.json with a Pooling module, and its architecture is "
            f"{architectures!r}, not {CROSS_ENCODER}: the pooling is unknown"
        )
    config = parse_config(raw, scores=scores)
    tensors = choose_tensors(config, read_checkpoint_index(folder))
    lengths = read_optional_object(folder / "sentence_bert_config.json")
    vocabulary = read_vocabulary(folder, size=config.vocabulary_size)
    if lengths.get("do_lower_case") is True and not vocabulary.lowercase:
        raise ConversionError(
            "sentence_bert_config.json lower-cases texts for a cased tokenizer, "
            "which a GGUF cannot express"
        )
    return Checkpoint(
        config=config,
        tensors=tensors,
        vocabulary=vocabulary,
        pooling=_read_pooling(pooling_folder, config) if pooling_folder else Pooling.RANK,
        max_seq_length=_max_seq_length(lengths, config),
        prompts=_prompts(read_optional_object(source / "config_sentence_transformers.json")),
    )


def _read_modules(source: Path) -> tuple[Path, Path | None]:
    """The folders of the Transformer and the Pooling module; a cross-encoder has no pooling.

    Without ``modules.json`` the transformer lies in *source* itself.
    """
    if not source.is_dir():
        raise ConversionError(f"{source} is not a folder: a checkpoint is one with config.json")
    path = source / "modules.json"
    listed = read_json(path) if path.is_file() else []
    if not isinstance(listed, list):
        raise ConversionError(f"{path} must hold a JSON list")
    folders: dict[str, Path] = {}
    for module in listed:
        kind, folder = _to_module(module, source)
        if kind not in {"Transformer", "Pooling", "Normalize"}:
            raise ConversionError(f"{path} has a {kind} module, which cannot be converted")
        if kind in folders:
            raise ConversionError(f"{path} has two {kind} modules, only one can be converted")
        folders[kind] = folder
    return folders.get("Transformer", source), folders.get("Pooling")


def _to_module(module: object, source: Path) -> tuple[str, Path]:
    """A module's kind, which is the last word of its type, and its folder."""
    match module:
        case {"type": str(kind), "path": str(path)}:
            inside = PurePosixPath(path)
        case _:
            raise ConversionError(f"modules.json of {source} has the entry {module!r}")
    if inside.is_absolute() or ".." in inside.parts:
        raise ConversionError(f"modules.json names the folder {path!r} outside the checkpoint")
    return kind.rpartition(".")[2], source / inside


def _read_pooling(folder: Path, config: BertConfig) -> Pooling:
    """The pooling mode that the module in *folder* sets; exactly one must be set."""
    path = folder / "config.json"
    options = read_json_object(path)
    width = options.get("word_embedding_dimension", config.embedding_length)
    if width != config.embedding_length:
        raise ConversionError(
            f"{path} has word_embedding_dimension {width!r}, "
            f"config.json has hidden_size {config.embedding_length}"
        )
    if options.get("include_prompt") is False:
        raise ConversionError(f"{path} leaves prompts out of pooling, which llama.cpp cannot do")
    prefix = "pooling_mode_"
    modes = [
        key.removeprefix(prefix)
        for key, on in options.items()
        if key.startswith(prefix) and on is True
    ]
    named = options.get("pooling_mode")
    if isinstance(named, str):
        modes.append(named)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ConversionError(
            f"{path} asks for the pooling {' + '.join(modes) or 'nothing'!r}: "
            "exactly one of mean, cls and lasttoken is converted"
        )
    return _POOLINGS[modes[0]]


def _max_seq_length(lengths: Mapping[str, object], config: BertConfig) -> int | None:
    value = lengths.get("max_seq_length")
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        raise ConversionError(f"sentence_bert_config.json has max_seq_length {value!r}")
    return min(value, config.context_length)


def _prompts(config: Mapping[str, object]) -> dict[str, str]:
    prompts = config.get("prompts")
    if not isinstance(prompts, dict):
        return {}
    return {name: text for name, text in prompts.items() if isinstance(text, str) and text}
