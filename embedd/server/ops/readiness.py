"""Whether the server should get requests: not before its models are loaded, not while it stops."""

from collections.abc import Iterable


class Readiness:
    """Counts the models that must be in memory before the server is ready.

    Once loaded a model counts for good: one that expires is loaded again on demand.

    Args:
        models: Names of the models to load at the start.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._models = frozenset(models)
        self._loaded: set[str] = set()
        self._failed: set[str] = set()

    def mark_loaded(self, model: str) -> None:
        """Note that *model* is in memory."""
        self._loaded.add(model)
        self._failed.discard(model)

    def mark_failed(self, model: str) -> None:
        """Note that *model* cannot be loaded: the server does not become ready."""
        self._failed.add(model)

    def reason(self) -> str | None:
        """Return why the server is not ready, without names: they are not public; or None."""
        missing = self._models - self._loaded
        if not missing:
            return None
        text = f"{len(missing)} of {len(self._models)} models are not in memory yet"
        if self._failed:
            text += f"; {len(self._failed)} could not be loaded: see the log"
        return text
