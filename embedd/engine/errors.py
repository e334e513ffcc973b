"""What an engine may say of a model besides the errors everybody knows."""

from embedd.errors import EngineError


class UnsuitableError(EngineError):
    """This engine cannot compute the model, or not as llama.cpp does: another one may."""
