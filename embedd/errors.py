"""Every error that embedd raises on purpose, grouped by who must act.

EmbeddError
├── RequestError             the caller must change the request
│   ├── InvalidInputError
│   │   ├── MalformedBodyError
│   │   ├── EmptyInputError
│   │   ├── TooManyInputsError
│   │   ├── InvalidTokenIdError
│   │   └── UnsupportedValueError
│   ├── InputTooLongError
│   ├── InvalidModelNameError
│   ├── ModelNotFoundError
│   ├── UnknownRouteError
│   ├── WrongMethodError
│   ├── UnauthorizedError
│   ├── ForbiddenError
│   ├── TooLargeError
│   ├── StalledBodyError
│   └── UnsupportedError
│       ├── ExtraMissingError
│       └── WrongModelError
│           ├── NotARerankerError
│           └── NotAnImageModelError
├── UnavailableError         the same request may succeed later
│   ├── OverloadedError
│   ├── DeadlineError
│   ├── LoadTimeoutError
│   ├── InsufficientMemoryError
│   ├── PictureCancelledError
│   ├── StoreLockedError
│   ├── WorkerUnavailableError
│   ├── ExhaustedError
│   └── ShuttingDownError
└── ServiceError             the operator must act
    ├── ConfigError
    ├── EngineError
    ├── ConversionError
    ├── ModelLoadError
    └── StoreError
        ├── PullError
        │   └── NoSourceError
        └── CorruptBlobError

An error has a message for people, and its facts as attributes. A dialect makes its own message
from the facts where its clients expect an exact text.
"""


class EmbeddError(Exception):
    """Base of all errors that embedd raises on purpose.

    Args:
        message: One sentence with the value, the limit and what to do about it.
        index: 0-based number of the input that caused it, if one did.
        tokens: Length of that input in tokens, special tokens included.
        limit: The limit that was exceeded, in the unit of the message.
        field: Name of the request's field that caused it, if one did.
    """

    def __init__(
        self,
        message: str,
        *,
        index: int | None = None,
        tokens: int | None = None,
        limit: int | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.index = index
        self.tokens = tokens
        self.limit = limit
        self.field = field


class RequestError(EmbeddError):
    """The caller must change the request."""


class InvalidInputError(RequestError):
    """A field is missing, has the wrong type, or a value that is not valid."""


class MalformedBodyError(InvalidInputError):
    """The request body is missing, not JSON, or not a JSON object."""


class EmptyInputError(InvalidInputError):
    """The request has no input, or an input is empty."""


class TooManyInputsError(InvalidInputError):
    """The request has more inputs than allowed.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int, *, limit: int, field: str | None = None) -> None:
        message = f"too many inputs: {count}, the limit is {limit}"
        super().__init__(message, limit=limit, field=field)
        self.count = count


class InvalidTokenIdError(InvalidInputError):
    """A token id is not in the model's vocabulary, or token ids are not accepted at all.

    Args:
        position: 0-based position of the id in its sequence; None if none is accepted.
        value: The id, as text.
        vocabulary: Number of the model's token ids; None if the model is not known yet.
    """

    def __init__(
        self,
        message: str,
        *,
        index: int | None = None,
        position: int | None = None,
        value: str = "",
        vocabulary: int | None = None,
    ) -> None:
        super().__init__(message, index=index, field="input")
        self.position = position
        self.value = value
        self.vocabulary = vocabulary


class UnsupportedValueError(InvalidInputError):
    """The value is valid in the protocol but not supported by embedd."""


class InputTooLongError(RequestError):
    """An input has more tokens than the limit, and may not or cannot be cut.

    Args:
        special: Number of special tokens around every text; with ``limit <= special``
            truncation would leave no token of the text.
    """

    def __init__(self, *, index: int, tokens: int, limit: int, special: int) -> None:
        super().__init__(
            f"input {index} has {tokens} tokens, the limit is {limit}: "
            "shorten it, allow truncation or raise num_ctx",
            index=index,
            tokens=tokens,
            limit=limit,
        )
        self.special = special


class InvalidModelNameError(RequestError):
    """The text is not a model name."""

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(reason or f"{name!r} is not a valid model name")
        self.name = name


class ModelNotFoundError(RequestError):
    """The model is not in the store.

    Args:
        hint: What may be meant; it ends the message.
        field: The field of the request that has no name, if that is why.
    """

    def __init__(
        self, name: str, message: str = "", *, hint: str = "", field: str | None = None
    ) -> None:
        text = message or f'model "{name}" not found, try pulling it first'
        super().__init__(f"{text}: {hint}" if hint else text, field=field)
        self.name = name
        self.hint = hint


class UnknownRouteError(RequestError):
    """The path does not exist."""


class WrongMethodError(RequestError):
    """The path does not take this method.

    Args:
        allowed: Methods that it takes.
    """

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""


class ForbiddenError(RequestError):
    """The server does not answer such a request: of this host, page or key."""


class TooLargeError(RequestError):
    """The request body is larger than the server accepts."""


class StalledBodyError(RequestError):
    """The client stopped sending its request body, or sends it too slowly.

    Args:
        seconds: How long it may.
        rate: Bytes a second that it has to send besides; None if it stopped.
    """

    def __init__(self, seconds: float, *, rate: int | None = None) -> None:
        reason = f"made no progress for {seconds:g} s"
        if rate is not None:
            reason = f"came with less than {rate} bytes a second, after {seconds:g} s"
        super().__init__(f"the request body {reason} (EMBEDD_BODY_TIMEOUT): send it again")


class UnsupportedError(RequestError):
    """The request asks for something that the model or the server cannot do."""


class ExtraMissingError(UnsupportedError):
    """An optional extra is not installed; what it would do is a fact of the server.

    Args:
        what: What needs it.
        extra: Its name.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the optional extra embedd-server[{extra}], which is not installed: "
            f"pip install 'embedd-server[{extra}]'"
        )


class WrongModelError(UnsupportedError):
    """The model is of the wrong kind for the request.

    Args:
        is_reranker: Whether it scores pairs of texts.
    """

    def __init__(self, message: str, *, is_reranker: bool) -> None:
        super().__init__(message)
        self.is_reranker = is_reranker


class NotARerankerError(WrongModelError):
    """The model cannot score pairs of texts."""

    def __init__(self) -> None:
        super().__init__("this model does not support reranking", is_reranker=False)


class NotAnImageModelError(WrongModelError):
    """The model cannot paint."""

    def __init__(self, name: str, *, is_reranker: bool = False) -> None:
        super().__init__(f'"{name}" does not make images', is_reranker=is_reranker)


class UnavailableError(EmbeddError):
    """The same request may succeed later."""


class OverloadedError(UnavailableError):
    """A queue is full.

    Args:
        retry_after: Seconds after which the client should retry.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(UnavailableError):
    """The request's deadline has passed, or cannot be met.

    Args:
        wait: Seconds that it would wait for others; None if the deadline has passed.
    """

    def __init__(self, *, wait: float | None = None) -> None:
        what = "the time for this request (X-Request-Timeout or EMBEDD_REQUEST_TIMEOUT)"
        reason = "has passed" if wait is None else f"ends before the queue of {wait:.1f} s"
        super().__init__(f"{what} {reason}: allow more time, send fewer inputs or try again later")


class LoadTimeoutError(UnavailableError):
    """Loading a model made no progress for too long."""


class InsufficientMemoryError(UnavailableError):
    """A model needs more memory than is free now, or than the budget."""


class PictureCancelledError(UnavailableError):
    """The picture was cancelled by a request of its owner."""

    def __init__(self) -> None:
        super().__init__("the picture was cancelled")


class StoreLockedError(UnavailableError):
    """Another process changes the model store.

    Args:
        path: The lock file.
        seconds: How long it was waited for.
    """

    def __init__(self, path: object, seconds: float) -> None:
        super().__init__(
            f"the model store is locked by another process since {seconds:g} s ({path}): "
            "wait until it has ended, or stop it"
        )


class WorkerUnavailableError(UnavailableError):
    """No worker process can compute now: it was ended from outside, or the system starts none."""


class ExhaustedError(UnavailableError):
    """The system has no file descriptor left."""


class ShuttingDownError(UnavailableError):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__("server is shutting down")


class ServiceError(EmbeddError):
    """The operator must act."""


class ConfigError(ServiceError):
    """A setting is not valid."""


class EngineError(ServiceError):
    """Computing vectors failed."""


class ConversionError(ServiceError):
    """A checkpoint cannot be converted."""


class ModelLoadError(ServiceError):
    """A model cannot be loaded."""


class StoreError(ServiceError):
    """The model store cannot be read or written."""


class PullError(StoreError):
    """A model cannot be fetched from its source."""


class NoSourceError(PullError):
    """What was asked for is not the name of a model that can be pulled."""


class CorruptBlobError(StoreError):
    """The content of a blob does not have the digest in its name."""
