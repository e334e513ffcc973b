"""Creating: a model from a checkpoint folder or a GGUF file."""

from pathlib import Path
from typing import Final

from embedd.convert import Converted, WeightType
from embedd.errors import InvalidInputError, ModelLoadError, UnsupportedError
from embedd.gguf_header import read_header_file
from embedd.library.progress import Progress, ReportProgress, bytes_as, tell_created
from embedd.library.storing import Verify, convert, prefixes, store_model
from embedd.names import ModelName, parse_model_name
from embedd.store.draft import Draft, make_config
from embedd.store.store import Store

_DEFAULT_WEIGHTS: Final = WeightType.F16


class Creator:
    """Creates models in one store."""

    def __init__(self, store: Store, verify: Verify | None) -> None:
        self._store = store
        self._verify = verify

    def create(
        self,
        text: str,
        source: Path,
        *,
        quantize: str | None = None,
        report: ReportProgress,
    ) -> bool:
        """Store *source*, a checkpoint folder or a GGUF file, as *text*; False if unchanged.

        Args:
            quantize: What the weights of a checkpoint become; None is f16.

        Raises:
            InvalidModelNameError: *text* is no name.
            InvalidInputError: *source* does not exist, or *quantize* is unknown.
            UnsupportedError: *quantize* was given for a GGUF.
            ConversionError, ModelLoadError: *source* is damaged or not understood.
            StoreError: The store cannot be written.
        """
        name = parse_model_name(text)
        weights = _parse_weights(quantize)
        if source.is_dir():
            return self._create_from_checkpoint(name, source, weights or _DEFAULT_WEIGHTS, report)
        if not source.is_file():
            raise InvalidInputError(f"{source} does not exist: give a checkpoint folder or a GGUF")
        if weights is not None:
            raise UnsupportedError(
                f"{source} is a GGUF, which cannot be quantized again: "
                "give the checkpoint that it was made from"
            )
        return self._create_from_gguf(name, source, report)

    def _create_from_checkpoint(
        self, name: ModelName, source: Path, weights: WeightType, report: ReportProgress
    ) -> bool:
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            converted = convert(
                source, incoming.path, weights, license=None, verify=self._verify, report=report
            )
            incoming.seal()
            draft = Draft(
                name=name,
                config=make_config(read_header_file(incoming.path)),
                parameters=_parameters_of_checkpoint(converted),
            )
            return store_model(self._store, draft, incoming.keep, report, tell_created)

    def _create_from_gguf(self, name: ModelName, source: Path, report: ReportProgress) -> bool:
        report(Progress(status="parsing GGUF"))
        facts = read_header_file(source)
        if facts.foreign_package is not None:
            raise ModelLoadError(f"{source} cannot be loaded: {facts.foreign_package}")
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            incoming.copy_from(source, bytes_as(report, "copying file"))
            incoming.seal()
            # The copy's own header: the source may have changed meanwhile.
            draft = Draft(name=name, config=make_config(read_header_file(incoming.path)))
            return store_model(self._store, draft, incoming.keep, report, tell_created)


def _parameters_of_checkpoint(converted: Converted) -> dict[str, object]:
    parameters: dict[str, object] = {}
    cut = converted.max_seq_length
    if cut is not None and cut < converted.context_length:
        parameters["num_ctx"] = cut
    prompts = converted.prompts
    return parameters | prefixes(
        prompts.get("query"), prompts.get("document") or prompts.get("passage")
    )


def _parse_weights(text: str | None) -> WeightType | None:
    if text is None:
        return None
    try:
        return WeightType(text.lower())
    except ValueError:
        supported = ", ".join(kind.value.upper() for kind in WeightType)
        raise InvalidInputError(
            f"unsupported quantization type {text.upper()} - supported types are {supported}"
        ) from None
