"""A store on loopback for jobs whose output is in it, with locks that do not wait for long."""

from collections.abc import Iterator

import pytest

from embedd.bulk import lease, remote
from tests.loopback_store import LoopbackStore, open_store

pytest.importorskip("pyarrow.fs")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackStore]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "STALE", 30.0)  # longer than a holder is ever late
    monkeypatch.setattr(lease, "SETTLE", 0.01)
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    with open_store() as store:
        yield store
