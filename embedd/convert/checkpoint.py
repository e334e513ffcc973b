"""A checkpoint folder: graph, tensors, vocabulary, pooling, lengths and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedd.convert.architectures import make_graph
from embedd.convert.files import read_json_object, read_optional_object
from embedd.convert.graph import Graph, TargetTensor, choose_tensors
from embedd.convert.modules import Modules, read_dense_tensors, read_modules
from embedd.convert.tensors import read_checkpoint_index
from embedd.convert.vocabulary import read_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import Vocabulary
from embedd.types import Pooling

PROMPTS: Final = "config_sentence_transformers.json"
# The first that exists is read, as by sentence-transformers; older versions wrote the others.
LENGTHS: Final = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)
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
        matryoshka: Lengths to which the model was trained to have its vectors cut.
        note: What a GGUF cannot say and users of the model should know; empty if nothing.
    """

    graph: Graph
    tensors: tuple[TargetTensor, ...]
    vocabulary: Vocabulary
    pooling: Pooling
    max_seq_length: int | None
    prompts: Mapping[str, str]
    matryoshka: tuple[int, ...]
    note: str


def read_checkpoint(source: Path) -> Checkpoint:
    """The checkpoint in the folder *source*; of the weights only an index.

    Raises:
        ConversionError: Something is missing, contradictory or not understood.
    """
    modules = read_modules(source)
    folder = modules.transformer
    raw = read_json_object(folder / "config.json")
    graph = make_graph(raw, modules)
    stored = {**read_checkpoint_index(folder), **dict(read_dense_tensors(modules))}
    tensors = choose_tensors(graph, stored)
    lengths = next((path for name in LENGTHS if (path := folder / name).is_file()), None)
    limits = read_json_object(lengths) if lengths else {}
    vocabulary = read_vocabulary(folder, size=graph.vocabulary_size)
    if limits.get("do_lower_case") is True and not vocabulary.lowercase:
        raise ConversionError(
            f"{lengths} lower-cases texts for a cased tokenizer, which a GGUF cannot express"
        )
    described = read_optional_object(source / PROMPTS)
    return Checkpoint(
        graph=graph,
        tensors=tensors,
        vocabulary=vocabulary,
        pooling=_read_pooling(modules.pooling, graph) if modules.pooling else Pooling.RANK,
        max_seq_length=_max_seq_length(limits, graph),
        prompts=_prompts(described),
        matryoshka=_matryoshka(raw, graph),
        note=_note(described, modules),
    )


def _read_pooling(folder: Path, graph: Graph) -> Pooling:
    """The pooling mode that the module in *folder* sets; exactly one must be set."""
    path = folder / "config.json"
    options = read_json_object(path)
    width = options.get("word_embedding_dimension", graph.embedding_length)
    if width != graph.embedding_length:
        raise ConversionError(
            f"{path} has word_embedding_dimension {width!r}, "
            f"config.json has hidden_size {graph.embedding_length}"
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


def _max_seq_length(lengths: Mapping[str, object], graph: Graph) -> int | None:
    value = lengths.get("max_seq_length")
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        raise ConversionError(f"sentence_bert_config.json has max_seq_length {value!r}")
    return min(value, graph.context_length)


def _prompts(config: Mapping[str, object]) -> dict[str, str]:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ConversionError(f"{PROMPTS} has prompts {prompts!r}: they must be names and texts")
    for name, text in prompts.items():
        if text is not None and not isinstance(text, str):
            raise ConversionError(f"{PROMPTS} has {text!r} as prompt {name!r}: it must be a text")
    default = config.get("default_prompt_name")
    if default is not None and not isinstance(default, str):
        raise ConversionError(f"{PROMPTS} has default_prompt_name {default!r}: it must be a text")
    if default is not None and prompts.get(default):
        raise ConversionError(
            f"{PROMPTS} puts the prompt {default!r} before every text (default_prompt_name), "
            "which a GGUF cannot say: set it to null there, and name the prompt in requests"
        )
    return {name: text for name, text in prompts.items() if text}


def _matryoshka(config: Mapping[str, object], graph: Graph) -> tuple[int, ...]:
    """The sizes in ``matryoshka_dimensions``, which some checkpoints list."""
    listed = config.get("matryoshka_dimensions") or []
    if not isinstance(listed, list) or not all(type(size) is int and size > 0 for size in listed):
        raise ConversionError(f"config.json has matryoshka_dimensions {listed!r}")
    return tuple(sorted({size for size in listed if size <= graph.embedding_length}))


def _note(config: Mapping[str, object], modules: Modules) -> str:
    """What is lost where vectors are not compared by their direction alone."""
    similarity = config.get("similarity_fn_name")
    if modules.normalizes or modules.pooling is None or similarity in (None, "cosine"):
        return ""
    return (
        f"note: this checkpoint compares vectors by {similarity} and has no Normalize module; "
        "answers are normalised unless a request says otherwise"
    )
