"""Texts of errors where no client compares them: what is wrong, then what to do."""

from embedd.errors import (
    EmbeddError,
    InputTooLongError,
    InvalidModelNameError,
    InvalidTokenIdError,
    OverloadedError,
    StoreError,
    WrongModelError,
)

INTERNAL = "internal error"  # the text of unexpected errors
OWN_IDS = (
    "Token arrays must hold the model's own ids; with langchain-openai set "
    "check_embedding_ctx_length=False to send text."
)
NO_IDS = (
    "token arrays are not accepted (token_ids=reject); send text. "
    "With langchain-openai set check_embedding_ctx_length=False."
)
FOREIGN_IDS = (
    "token arrays are not accepted on this route, whose clients send ids of OpenAI's vocabularies "
    "(EMBEDD_TOKEN_IDS=auto): send text. With langchain-openai set "
    "check_embedding_ctx_length=False. EMBEDD_TOKEN_IDS=own accepts the model's own ids."
)


def phrase(error: EmbeddError, request_id: str) -> str:
    """The text of *error*; an internal error has the request's id alone, to find it in the log."""
    # A store's error may contain a path.
    if str(error) == INTERNAL or isinstance(error, StoreError):
        return f"{INTERNAL}: request id {request_id}"
    return _phrase(error)


def _phrase(error: EmbeddError) -> str:
    match error:
        case InputTooLongError():
            return (
                "the input length exceeds the context length: "
                f"input[{error.index}] has {error.tokens} tokens, the limit is {error.limit}"
            )
        case InvalidModelNameError():
            return f'model "{error.name}" not found, try pulling it first'
        case InvalidTokenIdError(position=int()):
            return f"{_phrase_token_id(error)}. {OWN_IDS}"
        case WrongModelError(is_reranker=True):
            return f"{error}: it is a reranker, use rerank"
        case OverloadedError():
            return "server busy, please try again"
        case _:
            return str(error)


def _phrase_token_id(error: InvalidTokenIdError) -> str:
    place = f"input[{error.index}][{error.position}]"
    valid = "" if error.vocabulary is None else f" (valid: 0..{error.vocabulary - 1})"
    return f"{place} is not a token id of this model: {error.value}{valid}"
