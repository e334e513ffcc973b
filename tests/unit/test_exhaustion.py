"""What the system has no more of is named with its limit, and what to do."""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedd.components.tensor_file import read_tensor_file
from embedd.errors import ExhaustedError, ModelLoadError, StoreError
from embedd.exhaustion import check_descriptors, describe_exhaustion, to_file_error
from embedd.gguf.header import read_header_file
from embedd.store.disk import translated


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EMFILE, r"the limit is \d+: raise it \(ulimit -n\) or try again later"),
        (errno.ENFILE, "raise fs.file-max or try again later"),
        (errno.EAGAIN, r"raise the limit \(ulimit -u\) or try again later"),
        (errno.ENOMEM, "free some or try again later"),
    ],
)
def test_each_has_its_own_way_out(code: int, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(describe_exhaustion(OSError(code, "refused")))


def test_other_errors_are_no_exhaustion() -> None:
    assert describe_exhaustion(OSError(errno.ENOENT, "missing")) is None
    for code in (errno.ENOENT, errno.EAGAIN):  # the latter: of a lock that is held
        assert to_file_error(OSError(code, "no"), "cannot read a") is None


@pytest.mark.parametrize("read", [read_header_file, read_tensor_file])
def test_a_file_that_cannot_be_opened_now_is_not_damaged(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    said = r"a\.gguf cannot be read: too many open files"
    with pytest.raises(ExhaustedError, match=said), no_descriptors():
        read(tmp_path / "a.gguf")


def test_a_store_that_cannot_be_read_now_is_not_broken(tmp_path: Path) -> None:
    said = "cannot list a: too many open files, the limit is 0"
    with pytest.raises(ExhaustedError, match=said), no_descriptors(), translated("cannot list a"):
        os.scandir(tmp_path)


def test_a_file_that_is_missing_is_an_error_as_before(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        read_header_file(tmp_path / "a")
    with (
        pytest.raises(StoreError, match="cannot list a: No such file"),
        translated("cannot list a"),
    ):
        os.scandir(tmp_path / "a")


def test_descriptors_are_checked_and_given_back(tmp_path: Path) -> None:
    del tmp_path
    folder = Path("/dev/fd")
    before = len(list(folder.iterdir()))
    check_descriptors(16)
    assert len(list(folder.iterdir())) == before
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(file.name) for file in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            check_descriptors(highest + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(folder.iterdir())) == before
