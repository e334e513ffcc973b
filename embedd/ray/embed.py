"""`Embed`: vectors for the batches of a pipeline of Ray Data."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.util import find_spec
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from embedd.bulk.compute import Pool, Wanted, numpy_type
from embedd.bulk.reading import Rows
from embedd.bulk.sources import has_arrow
from embedd.bulk.unit import Embedded, embed_rows
from embedd.computers import open_computers
from embedd.config import Settings, parse_host, read_settings
from embedd.errors import ExtraMissingError, InvalidInputError, ServiceError
from embedd.ray.worker import make_connect, provide_model

T = TypeVar("T")


class Embed:
    """Adds a column of vectors to batches of Arrow; a class for `Dataset.map_batches`.

    ``ds.map_batches(Embed, fn_constructor_kwargs={"model": "all-minilm"}, batch_format="pyarrow",
    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8), num_cpus=4)``

    An actor loads the model, which it pulls where that is not stored, and computes with the cores
    that Ray has given to it. Settings are those of the environment of its process. A text that is
    null has no vector.

    Args:
        text: Column of the texts.
        output: Column of the vectors, a ``fixed_size_list``.
        url: A server, or several that share the work; None: the actor computes.
        input_type: ``document``, ``query``, or None for no prompt.
        truncate: Whether a text that is too long is cut; else it is an error.
        dtype: ``float32``, ``float16``, ``int8`` or ``ubinary``.

    Raises:
        EmbeddError: The model or an option is wrong, or a server does not answer.
    """

    def __init__(
        self,
        model: str,
        *,
        text: str = "text",
        output: str = "embedding",
        url: str | Sequence[str] | None = None,
        input_type: str | None = "document",
        truncate: bool = True,
        dimensions: int | None = None,
        dtype: str = "float32",
    ) -> None:
        if not has_arrow():
            raise ExtraMissingError("Embed", "ray")
        self._text, self._output, self._dtype = text, output, dtype
        wanted = Wanted(
            model=model, input_type=input_type, cut=truncate, dimensions=dimensions, dtype=dtype
        )
        urls = [url] if isinstance(url, str) else list(url or ())
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._pool, self._width = self._wait(self._open(wanted, urls))
        except BaseException:
            self.close()
            raise

    def __call__(self, batch: Any) -> Any:
        """Return *batch*, a table of Arrow, with the vectors of its texts.

        Raises:
            InvalidInputError: It is of another kind, or has no column of texts.
            ServiceError: A text has no vector; the message says why.
        """
        if not hasattr(batch, "append_column"):
            raise InvalidInputError(
                f"the batch is a {type(batch).__name__} and not a table of Arrow: call map_batches "
                'with batch_format="pyarrow"'
            )
        if self._text not in batch.column_names:
            raise InvalidInputError(
                f"the batch has no column {self._text!r}: its columns are "
                f"{', '.join(batch.column_names)}; name the one of the texts with text="
            )
        from embedd.bulk import tables  # noqa: PLC0415 - needs an extra

        texts = batch[self._text].to_pylist()
        rows = [index for index, text in enumerate(texts) if text is not None]
        embedded = self._wait(self._embed([texts[index] for index in rows]))
        if embedded.failures:
            failure = embedded.failures[0]
            raise ServiceError(f"row {rows[failure.row]} of the batch: {failure.error}")
        vectors = np.zeros((len(texts), self._width), numpy_type(self._dtype))
        vectors[rows] = embedded.vectors
        is_null = np.array([text is None for text in texts], np.bool_)
        column = tables.to_list_array(vectors, is_null if is_null.any() else None)
        if self._output in batch.column_names:
            return batch.set_column(batch.column_names.index(self._output), self._output, column)
        return batch.append_column(self._output, column)

    def close(self) -> None:
        """End what computes; an actor need not call it, because that ends with its process."""
        self._wait(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, wanted: Wanted, urls: Sequence[str]) -> tuple[Pool, int]:
        settings = _read_settings()
        if not urls:
            await asyncio.to_thread(provide_model, settings, wanted.model)
        computers = await self._stack.enter_async_context(
            open_computers(
                settings,
                wanted,
                [parse_host(one) for one in urls],
                connect=make_connect(settings),
                mixed=False,
            )
        )
        pool = Pool(computers.computes, served_by=computers.served_by)
        return pool, computers.model.width

    async def _embed(self, texts: Sequence[str]) -> Embedded:
        rows = Rows(file="", numbers=range(len(texts)), texts=texts, kept={})
        empty = np.zeros((0, self._width), numpy_type(self._dtype))
        return await embed_rows(
            rows,
            self._pool,
            lambda *_: None,
            empty=empty,
            advice="shorten it, or let it be cut with truncate=True",
        )

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _read_settings() -> Settings:
    """The settings of this process, with the cores that Ray has given to it, if it is Ray's."""
    settings = read_settings()
    if find_spec("ray") is None:
        return settings
    from embedd.ray.cluster import count_cores  # noqa: PLC0415 - needs an extra

    cores = count_cores()
    return settings if cores is None else replace(settings, threads=cores)
