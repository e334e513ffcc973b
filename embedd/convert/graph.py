"""What llama.cpp computes for a checkpoint: the GGUF's keys, and the place of each tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from embedd.convert.tensors import StoredTensor
from embedd.errors import ConversionError

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A tensor that a checkpoint of an architecture must have.

    Args:
        source: Its name in the checkpoint.
        target: Its name in the GGUF.
        exact: Whether it stays float32 whatever the weight type.
        skipped_rows: Rows at its beginning that are never read.
        added: A number that is added to each value.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    exact: bool
    skipped_rows: int = 0
    added: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTensor:
    """A tensor of the GGUF and where its values are stored.

    Args:
        exact: Whether it stays float32 whatever the weight type.
        added: A number that is added to each stored value.
    """

    name: str
    exact: bool
    source: StoredTensor
    added: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model of one architecture.

    Args:
        title: For messages.
        architecture: ``general.architecture``, which begins the names of *values*.
        context_length: The maximum length of a sequence.
        token_types: Rows of the token types' matrix; None where the architecture has none.
        labels: One per score of a cross-encoder; empty for an embedding model.
        values: Key without the architecture → value, in the order of the file.
        expected: Every tensor in the order of the file; lazily, so that an absurd number of
            layers costs nothing before the first that is missing.
        rename: The name of a stored tensor in *expected*; None for what is not computed.
    """

    title: str
    architecture: str
    context_length: int
    embedding_length: int
    vocabulary_size: int
    token_types: int | None
    labels: tuple[str, ...] = ()
    values: Mapping[str, Value]
    expected: Callable[[], Iterator[Expected]]
    rename: Callable[[str], str | None]


def choose_tensors(graph: Graph, stored: Mapping[str, StoredTensor]) -> tuple[TargetTensor, ...]:
    """All tensors of the GGUF, in its order, each from its place in the checkpoint.

    Raises:
        ConversionError: A tensor is missing, has another shape than the config says, or
            is one that *graph* does not compute.
    """
    sources = _renamed(graph, stored)
    targets: list[TargetTensor] = []
    for wanted in graph.expected():
        source = sources.pop(wanted.source, None)
        if source is None:
            raise ConversionError(f"the checkpoint has no tensor {wanted.source!r}")
        rows, *columns = wanted.shape
        if source.shape != (rows + wanted.skipped_rows, *columns):
            raise ConversionError(
                f"tensor {source.name!r} has shape {list(source.shape)}, by config.json "
                f"it must have {[rows + wanted.skipped_rows, *columns]}"
            )
        targets.append(
            TargetTensor(
                name=wanted.target,
                exact=wanted.exact,
                source=source.skip_rows(wanted.skipped_rows),
                added=wanted.added,
            )
        )
    if sources:
        unknown = min(source.name for source in sources.values())
        raise ConversionError(f"tensor {unknown!r} is not computed by {graph.title} of this kind")
    return tuple(targets)


def matrix(source: str, target: str, shape: tuple[int, int], *, exact: bool = False) -> Expected:
    """A matrix, which is called ``weight`` in both files."""
    return Expected(source=f"{source}.weight", target=f"{target}.weight", shape=shape, exact=exact)


def dense(
    source: str, target: str, shape: tuple[int, int], *, exact: bool = False
) -> Iterator[Expected]:
    """A matrix and its bias."""
    yield matrix(source, target, shape, exact=exact)
    yield vector(f"{source}.bias", f"{target}.bias", shape[0])


def layer_norm(source: str, target: str, width: int) -> Iterator[Expected]:
    """The weight and the bias of a normalization."""
    yield vector(f"{source}.weight", f"{target}.weight", width)
    yield vector(f"{source}.bias", f"{target}.bias", width)


def vector(source: str, target: str, length: int, *, added: float = 0.0) -> Expected:
    """A vector, which is never quantised."""
    return Expected(source=source, target=target, shape=(length,), exact=True, added=added)


def _renamed(graph: Graph, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors by their names in *graph*, without those that it does not compute."""
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        plain = graph.rename(name)
        if plain is None:
            continue
        if plain in renamed:
            raise ConversionError(
                f"tensors {renamed[plain].name!r} and {name!r} are both {plain!r}"
            )
        renamed[plain] = tensor
    return renamed
