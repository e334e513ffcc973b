"""Which servers compute a bulk job."""

from collections.abc import Sequence

from embedd.cli.connection import is_listening
from embedd.config import Address, Settings, parse_host
from embedd.errors import InvalidInputError


def choose_addresses(
    settings: Settings, servers: Sequence[str], *, local: bool, threads: int | None
) -> list[Address]:
    """Return the *servers* that are named, or the one that answers; none: a runtime computes.

    Raises:
        InvalidInputError: A server answers, and *threads* were given for a runtime.
    """
    if servers:
        return [parse_host(url) for url in servers]
    if local or not answers(settings.host):
        return []
    if threads is not None:
        raise InvalidInputError(
            f"--threads has no effect: the server at {settings.host.url} computes. Add --local to "
            "compute in this process, or leave --threads out"
        )
    return [settings.host]


def answers(address: Address) -> bool:
    """Whether something listens at a local address; another machine's is always asked."""
    return not address.is_local or is_listening(address)
