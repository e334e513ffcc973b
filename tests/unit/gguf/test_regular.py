"""Only regular files are read: others may block for ever, or never end."""

import os
import socket
from pathlib import Path

import pytest

from embedd.errors import ModelLoadError, StoreError
from embedd.gguf.header import read_header_file
from embedd.gguf.reader import open_regular
from embedd.store.blobs import hash_file


def make(path: Path, kind: str) -> Path:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
    return path


KINDS = pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket"])


@KINDS
def test_what_is_not_a_regular_file_is_not_read(kind: str, tmp_path: Path) -> None:
    path = make(tmp_path / "x", kind)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_header_file(path)
    with pytest.raises(StoreError, match="cannot read"):
        hash_file(path)


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
