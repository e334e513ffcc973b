"""The store of what was measured of models on this machine."""

from collections.abc import Set as AbstractSet
from importlib.metadata import version
from typing import TypeVar

import msgspec

from embedd.choices import EngineChoice, Precision
from embedd.engine.backends import choose_precision
from embedd.engine.settings import ONE_REPLICA
from embedd.engine.spec import ModelSpec
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerVerdict
from embedd.engine.tuning.calibrate import Calibration, Verdict
from embedd.state import StateFolder

_Kept = TypeVar("_Kept", Calibration, Verdict, TokenizerVerdict)

# Of the code that builds tokenizers: raise it when they may be built that were refused before, or
# the other way round.
BUILDERS = 1
# Of the graphs of OpenVINO and of their comparison: raise it when models are computed, or agree,
# that were refused before, or the other way round.
GRAPHS = 2


class TuningStore:
    """Measurements in the state folder, by model, engine, pooling, build, cores and precision.

    Args:
        engine, precision: Used for models that do not name one themselves.
        build: Installed engines and processor; see `embedd.engine.installation`.
    """

    def __init__(
        self,
        state: StateFolder,
        *,
        cores: int,
        engine: EngineChoice,
        precision: Precision,
        cpu_features: AbstractSet[str],
        build: str,
    ) -> None:
        self._state = state
        self._cores = cores
        self._engine = engine
        self._precision = precision
        self._cpu_features = cpu_features
        self._build = build
        self._tokenizers = version("tokenizers")  # once: it is read from a file

    def read(self, spec: ModelSpec) -> Calibration | None:
        """Return the calibration of the model, or None if it was not calibrated."""
        return self._read("calibration", self._key(spec), Calibration)

    def write(self, spec: ModelSpec, calibration: Calibration) -> None:
        """Replace the calibration of the model."""
        self._write("calibration", self._key(spec), calibration)

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        """Return how OpenVINO's vectors compare with llama.cpp's, or None if not compared."""
        return self._read("agreement", self._key(spec), Verdict)

    def write_verdict(self, spec: ModelSpec, verdict: Verdict) -> None:
        """Replace the verdict on the model."""
        self._write("agreement", self._key(spec), verdict)

    def read_tokenizer(self, spec: ModelSpec) -> TokenizerVerdict | None:
        """Return what is known of the tokenizer of the model's file, or None if nothing is."""
        return self._read("tokenizer", self._file_key(spec), TokenizerVerdict)

    def write_tokenizer(self, spec: ModelSpec, verdict: TokenizerVerdict) -> None:
        """Replace what is known of the tokenizer of the model's file."""
        self._write("tokenizer", self._file_key(spec), verdict)

    def _read(self, kind: str, key: str, form: type[_Kept]) -> _Kept | None:
        value = self._state.read(kind, key)
        try:
            return None if value is None else msgspec.convert(value, form)
        except msgspec.ValidationError:
            return None

    def _write(self, kind: str, key: str, value: _Kept) -> None:
        self._state.write(kind, key, msgspec.to_builtins(value))

    def _key(self, spec: ModelSpec) -> str:
        precision = choose_precision(spec.precision or self._precision, self._cpu_features)
        parts = [spec.digest, spec.engine or self._engine, spec.pooling, self._build]
        return " ".join([*parts, f"cores={self._cores}", precision, f"graphs={GRAPHS}"])

    def _file_key(self, spec: ModelSpec) -> str:
        return f"{spec.digest} {self._build} tokenizers={self._tokenizers} {BUILDERS}"


class SingleUse(TuningStore):
    """A store for a model that is loaded once: one replica, no trials, nothing is kept."""

    def __init__(self) -> None:
        """Without a state folder."""

    def read(self, spec: ModelSpec) -> Calibration | None:
        """Return one replica as the best setting, so that no calibration is started."""
        del spec
        return Calibration(trials=(), best=ONE_REPLICA)

    def write(self, spec: ModelSpec, calibration: Calibration) -> None:
        """Keep nothing."""

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        """Return None: the engines are compared by this load."""
        del spec
        return None

    def write_verdict(self, spec: ModelSpec, verdict: Verdict) -> None:
        """Keep nothing."""

    def read_tokenizer(self, spec: ModelSpec) -> TokenizerVerdict | None:
        """Return that llama.cpp tokenizes: the texts of trials need no other tokenizer."""
        del spec
        return LLAMA_TOKENIZER

    def write_tokenizer(self, spec: ModelSpec, verdict: TokenizerVerdict) -> None:
        """Keep nothing."""
