"""What a start says of a store that it may not write to."""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.config import read_settings
from embedd.runtime import open_runtime


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.EROFS, "INFO store is read-only"),
        (errno.EACCES, "INFO store is read-only"),
        (errno.EIO, "WARNING store not pruned"),
    ],
)
async def test_a_store_that_is_read_only_is_no_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    line: str,
) -> None:
    settings = replace(
        read_settings({"HOME": str(tmp_path)}), models=tmp_path / "models", state=tmp_path / "state"
    )
    (settings.models / "manifests").mkdir(parents=True)
    (settings.models / "blobs").mkdir()
    (settings.models / "embedd-store.json").write_text('{"format":1}')
    really_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if str(path).endswith("lock"):
            raise OSError(code, os.strerror(code), path)
        return really_open(path, flags, mode, **more)

    monkeypatch.setattr("embedd.store.disk.os.open", refuse)
    with caplog.at_level(logging.INFO, "embedd.runtime"):
        async with open_runtime(settings):
            pass
    [record] = [one for one in caplog.records if one.message.startswith("store ")]
    assert f"{record.levelname} {record.message}" == line
