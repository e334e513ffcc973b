"""The split of the machine's cores among the models that are computing."""

from collections.abc import Callable
from weakref import WeakKeyDictionary


class CoreBudget:
    """Split *total* cores equally among the models that are computing, at least one each.

    An idle model has no share. A computing model is notified when its share changes and
    uses the new number from its next batch on.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._computing: dict[object, Callable[[int], None]] = {}
        self._shares: WeakKeyDictionary[object, int] = WeakKeyDictionary()  # last notified

    @property
    def busy(self) -> bool:
        """Whether any model is computing."""
        return bool(self._computing)

    def enter(self, model: object, notify: Callable[[int], None]) -> None:
        """Mark *model* as computing and call *notify* with its share, now and on each change.

        A model starts with all cores and keeps its last share while idle: *notify* is not
        called with the share that the model already has.
        """
        self._computing[model] = notify
        self._divide()

    def leave(self, model: object) -> None:
        """Mark *model* as idle; its cores go to the others."""
        if self._computing.pop(model, None) is not None:
            self._divide()

    def _divide(self) -> None:
        share = max(1, self.total // max(1, len(self._computing)))
        for model, notify in self._computing.items():
            if self._shares.get(model, self.total) != share:
                self._shares[model] = share
                notify(share)
