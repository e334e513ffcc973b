"""What the operator may choose by settings. Imports nothing: settings are read before anything."""

from enum import StrEnum


class EngineChoice(StrEnum):
    """Which engine computes a model; ``auto``: the fastest whose output was verified."""

    AUTO = "auto"
    LLAMA = "llama"
    OPENVINO = "openvino"


class TokenizerChoice(StrEnum):
    """Which tokenizer turns texts to ids; ``auto``: the model's own, where it can be built."""

    AUTO = "auto"
    LLAMA = "llama"


class TokenIdChoice(StrEnum):
    """Where token arrays are accepted; they hold ids of the model's own vocabulary.

    ``auto``: not on routes whose clients send ids of OpenAI's vocabularies, which are valid in
    another one too and give wrong vectors.
    """

    AUTO = "auto"
    OWN = "own"
    REJECT = "reject"


class Precision(StrEnum):
    """Numbers that OpenVINO computes with; ``auto``: bf16 where the CPU has instructions for it."""

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"
