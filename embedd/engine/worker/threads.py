"""Threads of the worker process: an error in any of them ends the process."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator


def start_thread(target: Callable[..., None], *args: object, stack: int = 0) -> threading.Thread:
    """Run *target* in a thread with *stack* bytes of stack; 0 is the default size."""

    def run() -> None:
        with exit_on_error():
            target(*args)

    threading.stack_size(stack)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    threading.stack_size(0)
    return thread


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process on any error: otherwise the server would wait for its answers for ever."""
    try:
        yield
    except ConnectionError:  # the server has closed the socket
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
