"""Whom to unload: pure decisions over values."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A loaded model as eviction sees it; *order* breaks ties (the blob's path).

    ``keep_alive`` is in seconds, ``size`` in bytes.
    """

    key: object
    keep_alive: float
    order: str
    size: int
    idle: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What must become free before the next load: places and bytes."""

    places: int
    size: int

    @property
    def met(self) -> bool:
        """Nothing need be unloaded."""
        return self.places <= 0 and self.size <= 0


def choose_victims(candidates: Iterable[Candidate], need: Need) -> list[Candidate]:
    """Models to unload until *need* is met, shortest keep_alive first, idle before busy.

    A busy model is only ever the one victim, to be drained: which others go is decided
    anew when it is gone. If unloading all would not be enough, all idle ones are chosen.
    """
    ordered = sorted(candidates, key=lambda one: (not one.idle, one.keep_alive, one.order))
    victims: list[Candidate] = []
    for candidate in ordered:
        if need.met or (victims and not candidate.idle):
            break
        victims.append(candidate)
        need = Need(places=need.places - 1, size=need.size - candidate.size)
    return victims
