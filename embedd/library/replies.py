"""What the library knows, in the words of Ollama's wire: for the server, and without one."""

from datetime import UTC, datetime

from msgspec import UNSET, UnsetType

from embedd.library.library import ModelEntry, Shown
from embedd.ollama_api import Details, ShowReply, StoredModel, Tensor
from embedd.resolve import ModelDetails


def to_stored_model(entry: ModelEntry) -> StoredModel:
    """A line of ``/api/tags``."""
    return StoredModel(
        name=entry.name,
        model=entry.name,
        modified_at=_local_time(entry.modified_at),
        size=entry.size,
        digest=entry.digest,
        details=to_details(entry.details, lengths=True),
        capabilities=list(entry.capabilities),
    )


def to_show_reply(shown: Shown) -> ShowReply:
    """The answer of ``/api/show``."""
    texts, entry = shown.texts, shown.entry
    return ShowReply(
        license=texts.license or UNSET,
        modelfile=texts.modelfile,
        parameters=texts.parameters or UNSET,
        template=texts.template,
        system=texts.system or UNSET,
        details=to_details(entry.details, lengths=False),
        model_info=dict(shown.metadata.info),
        tensors=[
            Tensor(name=tensor.name, type=tensor.type, shape=list(tensor.shape))
            for tensor in shown.metadata.tensors
        ],
        capabilities=list(entry.capabilities),
        modified_at=_local_time(entry.modified_at),
    )


def to_details(details: ModelDetails, *, lengths: bool) -> Details:
    """What kind of model it is; *lengths* where they are known."""
    return Details(
        format=details.format,
        family=details.family,
        families=list(details.families),
        parameter_size=details.parameter_size,
        quantization_level=details.quantization_level,
        context_length=_known(details.context_length if lengths else None),
        embedding_length=_known(details.embedding_length if lengths else None),
    )


def _known(length: int | None) -> int | UnsetType:
    return UNSET if length is None else length


def _local_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).astimezone()
