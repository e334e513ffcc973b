"""How a tokenizer fails: with one named error, after which another tokenizer can be used."""

from collections.abc import Iterator
from contextlib import contextmanager

from embedd.errors import ModelLoadError


class TokenizerError(ModelLoadError):
    """A vocabulary cannot be built exactly, or its tokenizer failed: use llama.cpp's."""


@contextmanager
def named_failures(action: str) -> Iterator[None]:
    """Turn every failure of the Rust library, its panics included, into `TokenizerError`.

    A panic arrives as ``pyo3_runtime.PanicException``, which cannot be imported and derives
    from `BaseException`. It leaves no lock held that a later call would wait for.

    Args:
        action: What failed, as the beginning of the message.
    """
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:
        raise TokenizerError(f"{action} failed: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{action} failed: {error}") from error
