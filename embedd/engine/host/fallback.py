"""Fallback: which backend computes a model after the one before it failed."""

import logging
from collections.abc import Sequence

from embedd.engine.backends import Backend
from embedd.errors import EmbeddError, InsufficientMemoryError, ModelLoadError
from embedd.metrics import ModelMetrics

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
        self._backends = list(backends)
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
        self._drop()

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
        self._drop()
        self._healthy = True
        return True

    def _may_help(self, error: EmbeddError) -> bool:
        """Return whether another engine may load a model that the current backend refuses."""
        if not self.current.has_fallback or len(self) == 1:
            return False
        if not self.current.is_reference and not isinstance(error, InsufficientMemoryError):
            self.refusals[self.current.engine] = str(error)
        return True

    def _drop(self) -> None:
        self._metrics.backend_failed(self._backends.pop(0).name)
