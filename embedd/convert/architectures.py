"""The architectures that are converted, by ``model_type`` of ``config.json``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from embedd.convert import bert, gemma, modern_bert, nomic_bert, qwen3
from embedd.convert.graph import Graph
from embedd.convert.hyperparameters import Config
from embedd.convert.modules import DenseModule, Modules, read_dense
from embedd.errors import ConversionError

ADVICE: Final = "pull a GGUF of the model instead (embedd pull hf.co/OWNER/REPOSITORY)"
# Why well-known others are not converted
_REASONS: Final[Mapping[str, str]] = {
    "mpnet": "llama.cpp has no relative positions of this kind",
    "deberta-v2": "llama.cpp has no disentangled attention",
    "new": "llama.cpp has no graph of this kind",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How checkpoints of one ``model_type`` are converted.

    Args:
        make: The graph from the config; the flag asks for that of a cross-encoder.
        scorer: Name of its cross-encoders in ``architectures``; None where there are none.
        has_dense: Whether llama.cpp computes Dense modules after pooling.
        has_own_code: Whether its checkpoints name Python code in ``auto_map``.
    """

    make: Callable[[Config, bool, Sequence[DenseModule]], Graph]
    scorer: str | None = None
    has_dense: bool = False
    has_own_code: bool = False


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "bert": Architecture(
        make=lambda config, scores, _: bert.make_graph(config, scores=scores),
        scorer="BertForSequenceClassification",
    ),
    "roberta": Architecture(
        make=lambda config, scores, _: bert.make_graph(config, scores=scores),
        scorer="RobertaForSequenceClassification",
    ),
    "xlm-roberta": Architecture(
        make=lambda config, scores, _: bert.make_graph(config, scores=scores),
        scorer="XLMRobertaForSequenceClassification",
    ),
    "nomic_bert": Architecture(
        make=lambda config, _, __: nomic_bert.make_graph(config), has_own_code=True
    ),
    "modernbert": Architecture(
        make=lambda config, scores, _: modern_bert.make_graph(config, scores=scores),
        scorer="ModernBertForSequenceClassification",
    ),
    "qwen3": Architecture(make=lambda config, _, __: qwen3.make_graph(config)),
    "gemma3_text": Architecture(
        make=lambda config, _, modules: gemma.make_graph(config, modules=modules), has_dense=True
    ),
}


def make_graph(config: Config, modules: Modules) -> Graph:
    """The graph of a checkpoint.

    Args:
        config: Its ``config.json``.
        modules: Without pooling it must be a cross-encoder.

    Raises:
        ConversionError: It is of an architecture that is not converted, or has a part that
            llama.cpp does not compute.
    """
    kind = config.get("model_type")
    architecture = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if architecture is None:
        reason = _REASONS.get(str(kind))
        raise ConversionError(
            f"config.json has model_type {kind!r}{f' ({reason})' if reason else ''}: only "
            f"{', '.join(ARCHITECTURES)} are converted; {ADVICE}"
        )
    for key in ("auto_map", "quantization_config"):
        if config.get(key) and not (key == "auto_map" and architecture.has_own_code):
            what = "code of its own" if key == "auto_map" else "quantised weights"
            raise ConversionError(
                f"config.json has {key}: a {kind} with {what} is not converted; {ADVICE}"
            )
    scores, found = modules.pooling is None, config.get("architectures")
    if scores and (architecture.scorer is None or found != [architecture.scorer]):
        scorer = f", not {[architecture.scorer]!r}" if architecture.scorer else ""
        raise ConversionError(
            f"modules.json names no Pooling module, and the architecture is {found!r}{scorer}: "
            "the pooling is unknown"
        )
    if modules.dense and not architecture.has_dense:
        raise ConversionError(
            f"modules.json has the Dense module {modules.dense[0]!r}, which llama.cpp does not "
            f"compute after a {kind}; {ADVICE}"
        )
    dense = [read_dense(modules.source, name) for name in modules.dense]
    return architecture.make(config, scores, dense)
