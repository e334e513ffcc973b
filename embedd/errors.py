"""Everything that can go wrong, by who must act.

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
│   ├── WrongVerbError
│   ├── UnauthorizedError
│   ├── TooLargeError
│   └── UnsupportedError
│       └── WrongModelError
│           └── NotARerankerError
├── UnavailableError         the same request may succeed later
│   ├── OverloadedError
│   ├── LoadTimeoutError
│   └── ShuttingDownError
└── ServiceError             the operator must act
    ├── ConfigError
    ├── EngineError
    ├── ConversionError
    ├── ModelLoadError
    │   └── InsufficientMemoryError
    └── StoreError
        ├── PullError
        └── CorruptBlobError

Every error carries a message for people and its facts as attributes; a dialect
may phrase the facts anew where its clients expect an exact text.
"""


class EmbeddError(Exception):
    """Base of all errors that embedd raises on purpose.

    Args:
        message: One sentence that names the value, the limit and the way out.
        index: 0-based number of the input at fault, if one is.
        tokens: Length of that input in tokens, special tokens included.
        limit: The limit that was passed, in the unit of the message.
        field: Name of the request's field at fault, if one is.
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
    """A field is missing, of the wrong type, or has a value nobody can serve."""


class MalformedBodyError(InvalidInputError):
    """The request body is missing, no JSON, or no JSON object."""


class EmptyInputError(InvalidInputError):
    """There is nothing to embed."""


class TooManyInputsError(InvalidInputError):
    """More inputs than one request may have.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int, *, limit: int, field: str | None = None) -> None:
        message = f"too many inputs: {count}, the limit is {limit}"
        super().__init__(message, limit=limit, field=field)
        self.count = count


class InvalidTokenIdError(InvalidInputError):
    """A token id is none of the model's, or token ids are not wanted at all.

    Args:
        position: 0-based place of the id in its sequence; None if all are refused.
        value: The id, as text.
        vocabulary: How many ids the model has; None if it was not even looked at.
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
    """A value is well known, but not here."""


class InputTooLongError(RequestError):
    """An input has more tokens than the limit, and may not be (or cannot be) cut.

    Args:
        special: Tokens that the model puts around every text; with
            ``limit <= special`` not even truncation leaves room for content.
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
    """No such model in the store."""

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(message or f'model "{name}" not found, try pulling it first')
        self.name = name


class UnknownRouteError(RequestError):
    """No such path."""


class WrongVerbError(RequestError):
    """The path has other verbs.

    Args:
        allowed: Verbs that it has.
    """

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnauthorizedError(RequestError):
    """The API key is missing or wrong."""


class TooLargeError(RequestError):
    """The request body is larger than the server accepts."""


class UnsupportedError(RequestError):
    """The request asks for what this model or this server cannot do."""


class WrongModelError(UnsupportedError):
    """The model is of another kind.

    Args:
        is_reranker: It scores pairs of texts.
    """

    def __init__(self, message: str, *, is_reranker: bool) -> None:
        super().__init__(message)
        self.is_reranker = is_reranker


class NotARerankerError(WrongModelError):
    """The model cannot score pairs of texts."""

    def __init__(self) -> None:
        super().__init__("this model does not support reranking", is_reranker=False)


class UnavailableError(EmbeddError):
    """The same request may succeed later."""


class OverloadedError(UnavailableError):
    """A queue is full.

    Args:
        retry_after: Whole seconds after which a retry makes sense.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoadTimeoutError(UnavailableError):
    """A model made no progress while loading."""


class ShuttingDownError(UnavailableError):
    """The server is about to stop."""

    def __init__(self) -> None:
        super().__init__("server is shutting down")


class ServiceError(EmbeddError):
    """The operator must act."""


class ConfigError(ServiceError):
    """A setting cannot be used."""


class EngineError(ServiceError):
    """Computing vectors failed."""


class ConversionError(ServiceError):
    """A checkpoint cannot be converted."""


class ModelLoadError(ServiceError):
    """A model cannot be loaded."""


class InsufficientMemoryError(ModelLoadError):
    """A model needs more memory than the budget allows."""


class StoreError(ServiceError):
    """The model store cannot be read or written."""


class PullError(StoreError):
    """A model cannot be fetched from its source."""


class CorruptBlobError(StoreError):
    """The bytes of a blob do not have the digest of its name."""
