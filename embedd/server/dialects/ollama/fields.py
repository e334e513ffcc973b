"""Fields that several of Ollama's requests have: the model's name."""

from embedd.errors import InvalidInputError, InvalidModelNameError, ModelNotFoundError
from embedd.names import parse_model_name
from embedd.ollama_api import NamedBody


def require_model(model: str | None, default: str | None) -> str:
    """The model's name, where one that is missing is answered as a model that does not exist.

    Args:
        default: The operator's default for requests that name none.

    Raises:
        ModelNotFoundError: The name is missing.
        InvalidModelNameError: It is not a valid name.
    """
    name = model or ""
    if not name.strip() and default is not None:
        return default
    if not name.strip():
        raise ModelNotFoundError(name, f"model '{name}' not found", field="model")
    parse_model_name(name)
    return name


def name_in(body: NamedBody) -> str:
    """The model's name under either of its keys; empty if there is none."""
    return body.model or body.name or ""


def check_name(text: str, message: str) -> None:
    """Check that *text* is a valid name.

    Raises:
        InvalidInputError: It is not; the error has the text *message*.
    """
    try:
        parse_model_name(text)
    except InvalidModelNameError:
        raise InvalidInputError(message) from None
