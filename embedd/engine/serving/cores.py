"""The cores of the machine, shared by the models that compute at the moment."""

from collections.abc import Callable
from weakref import WeakKeyDictionary


class CoreShares:
    """Divides *total* cores evenly over the busy models, at least one each.

    Idle models give theirs back; those that compute are told when their share changes,
    and follow from their next batch on.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._busy: dict[object, Callable[[int], None]] = {}
        self._told: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    @property
    def busy(self) -> bool:
        """Whether any model computes."""
        return bool(self._busy)

    def enter(self, model: object, tell: Callable[[int], None]) -> None:
        """*model* begins to compute; *tell* is called with its share when that is new."""
        self._busy[model] = tell
        self._divide()

    def leave(self, model: object) -> None:
        """*model* has nothing to compute."""
        if self._busy.pop(model, None) is not None:
            self._divide()

    def _divide(self) -> None:
        share = max(1, self.total // max(1, len(self._busy)))
        for model, tell in self._busy.items():
            # A model that was never told starts with all cores.
            if self._told.get(model, self.total) != share:
                self._told[model] = share
                tell(share)
