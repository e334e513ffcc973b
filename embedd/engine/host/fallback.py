"""Fallback: which backend computes a model after the one before it failed."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from embedd.engine.backends import Backend
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError
from embedd.metrics import ModelMetrics
from embedd.types import Pooling, Vector

log = logging.getLogger(__name__)

# What a worker answers when it cannot load the model: never, or not now.
REFUSALS = (ModelLoadError, InsufficientMemoryError)


class Fallbacks:
    """The backends that may still compute a model, in order of preference.

    Attributes:
        preferred: The first of them when the model was loaded for the first time.
        refusals: Engine → why it cannot compute this model.
    """

    def __init__(self, model: str, backends: Sequence[Backend], metrics: ModelMetrics) -> None:
        self.preferred = backends[0]
        self.refusals: dict[str, str] = {}
        self._model = model
        self._all = list(backends)
        self._backends = list(backends)
        self._unlucky: set[str] = set()  # names of those that failed, and may not the next time
        self._metrics = metrics
        # False until a batch of a request was computed, or one fallback was made without
        # it: an input that kills workers must not cost more than one backend.
        self._healthy = False

    def __len__(self) -> int:
        return len(self._backends)

    @property
    def current(self) -> Backend:
        """The backend that computes the model, or is to load it next."""
        return self._backends[0]

    @property
    def can_return(self) -> bool:
        """Whether an earlier backend failed in a way that may not happen again."""
        return bool(self._unlucky)

    def restore(self) -> None:
        """Take back the backends that may not fail again; the first is the current one."""
        left = {backend.name for backend in self._backends}
        self._backends = [one for one in self._all if one.name in left | self._unlucky]
        self._unlucky.clear()
        self._healthy = False  # it is on probation, as after the first load

    def mark_healthy(self) -> None:
        """A batch of a request was computed: later deaths need not be the backend's fault."""
        self._healthy = True

    def replace_after_failed_load(self, error: EmbeddError) -> None:
        """Fall back to the next backend, if there is one, because the current one did not load.

        Raises:
            ModelLoadError, InsufficientMemoryError: *error*, where no other backend can help.
        """
        if isinstance(error, REFUSALS) and not self._may_help(error):
            raise error
        log.warning(
            "backend cannot compute model",
            extra={"model": self._model, "backend": self.current.name, "reason": str(error)},
        )
        # There may be more memory later; a file, a library or a processor stays as it is.
        self._drop(unlucky=isinstance(error, InsufficientMemoryError))

    def replace_after_death(self, *, computing: bool) -> bool:
        """Fall back to the next backend if the worker's death may be the current one's fault.

        It may be if the worker died while it computed its first batch, or any batch on another
        engine than llama.cpp.

        Args:
            computing: Whether it died while it computed a batch.

        Returns:
            Whether the next backend is now the current one.
        """
        at_fault = computing and (not self._healthy or self.current.has_fallback)
        if not at_fault or len(self) == 1:
            return False
        self._drop(unlucky=True)
        self._healthy = True
        return True

    def _may_help(self, error: EmbeddError) -> bool:
        """Return whether another engine may load a model that the current backend refuses."""
        if not self.current.has_fallback or len(self) == 1:
            return False
        if not self.current.is_reference and not isinstance(error, InsufficientMemoryError):
            self.refusals[self.current.engine] = str(error)
        return True

    def _drop(self, *, unlucky: bool) -> None:
        name = self._backends.pop(0).name
        if unlucky:
            self._unlucky.add(name)
        self._metrics.backend_failed(name)


def measure_difference(a: Vector, b: Vector, pooling: Pooling) -> float:
    """Return how far two results of the same text differ, as 1 - cosine.

    Of scores: the largest difference as a share of the largest score. Infinity if they do not even
    have the same width.
    """
    if a.shape != b.shape:
        return math.inf
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if pooling is Pooling.RANK:
        return float(np.abs(wide_a - wide_b).max() / max(1.0, np.abs(wide_a).max()))
    return float(1 - wide_a @ wide_b / (np.linalg.norm(wide_a) * np.linalg.norm(wide_b)))
