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
    except BaseException as error:
        failure = name_failure(action, error)
        if failure is None:
            raise
        raise failure from error


def name_failure(action: str, error: BaseException) -> TokenizerError | None:
    """Return the error to raise instead of *error*; None unless the library failed."""
    is_panic = type(error).__name__ == "PanicException"
    if isinstance(error, TokenizerError) or not (is_panic or isinstance(error, Exception)):
        return None
    return TokenizerError(f"{action} failed: {error}")
