"""What the system has no more of: descriptors, processes, memory."""

import contextlib
import errno
import os
import resource
from typing import Final

from embedd.errors import ExhaustedError

DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


def describe_exhaustion(error: OSError) -> str | None:
    """Return which limit of this process or of the machine *error* shows as reached, or None."""
    if error.errno == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many open files, the limit is {limit}: raise it (ulimit -n) or try again later"
    if error.errno == errno.ENFILE:
        return "too many open files on this machine: raise fs.file-max or try again later"
    if error.errno == errno.EAGAIN:
        return "too many processes: raise the limit (ulimit -u) or try again later"
    if error.errno == errno.ENOMEM:
        return "not enough memory: free some or try again later"
    return None


def to_file_error(error: OSError, what: str) -> ExhaustedError | None:
    """Return the error of a file that was not opened for want of descriptors, or None.

    Args:
        what: Could not be done; the message begins with it.
    """
    if error.errno not in DESCRIPTORS:
        return None
    return ExhaustedError(f"{what}: {describe_exhaustion(error)}")


def check_descriptors(count: int) -> None:
    """Check that so many descriptors are left.

    Raises:
        OSError: They are not.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
