"""Which servers compute a bulk job."""

from collections.abc import Sequence

from embedd.cli.connection import is_listening
from embedd.config import Address, Settings, parse_host


def choose_addresses(settings: Settings, servers: Sequence[str], *, local: bool) -> list[Address]:
    """Return the *servers* that are named, or the one that answers; none: a runtime computes."""
    if servers:
        return [parse_host(url) for url in servers]
    return [settings.host] if not local and answers(settings.host) else []


def answers(address: Address) -> bool:
    """Whether something listens at a local address; another machine's is always asked."""
    return not address.is_local or is_listening(address)
