"""Eviction: which models to unload so that another one fits, decided from values alone."""

from collections.abc import Iterable

from embedd.scheduler.records import Resident


def choose_victims(residents: Iterable[Resident], *, places: int, size: int) -> list[Resident]:
    """Return the models to unload until *places* models and *size* bytes are freed.

    Idle models go first, those with the shortest keep_alive before others, by path if equal.
    A busy model is only ever the single victim: it is unloaded when its requests end, and
    what else must go is decided then. If all idle models together are not enough, all of
    them are returned.
    """
    ordered = sorted(
        residents, key=lambda one: (bool(one.users), one.expiry.keep_alive, str(one.spec.path))
    )
    victims: list[Resident] = []
    for resident in ordered:
        is_enough = places <= 0 and size <= 0
        if is_enough or (victims and resident.users):
            break
        victims.append(resident)
        places -= 1
        size -= resident.size
    return victims
