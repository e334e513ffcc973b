"""Loads image models for the scheduler."""

import functools
import logging
import math
import time
from collections.abc import Mapping

from embedd.engine.host.image_process import ImageWorker
from embedd.engine.image_spec import ImageSpec
from embedd.engine.serving.image_model import ServedImageModel
from embedd.metrics import Metrics

log = logging.getLogger(__name__)

DEFAULT_MAX_WAITING = 16


class ImageLoader:
    """Loads image models into worker processes.

    Args:
        environment: Environment variables of worker processes.
        cores: Cores that a model may use, if it does not say it itself.
        max_waiting: Most pictures that may wait for one model.
        load_timeout: Seconds that a load may make no progress, ``math.inf`` for ever.
        engine: Which implementation paints, see `LoadPainter`.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        cores: int,
        metrics: Metrics,
        max_waiting: int = DEFAULT_MAX_WAITING,
        load_timeout: float = math.inf,
        engine: str = "diffusion",
    ) -> None:
        self._start = functools.partial(ImageWorker.start, environment)
        self._cores = cores
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._load_timeout = None if math.isinf(load_timeout) else load_timeout
        self._engine = engine

    async def load(self, spec: ImageSpec) -> ServedImageModel:
        """Start a worker for *spec* and log it.

        Raises:
            ModelLoadError: The model cannot be loaded.
            LoadTimeoutError: The load makes no progress.
        """
        start = time.perf_counter()
        metrics = self._metrics.of_model(spec.name)
        model = ServedImageModel(
            spec,
            start=self._start,
            engine=self._engine,
            threads=self._cores,
            model_metrics=metrics,
            metrics=self._metrics.of_image_model(spec.name),
            max_waiting=self._max_waiting,
            load_timeout=self._load_timeout,
        )
        await model.load()
        metrics.load_seconds.observe(time.perf_counter() - start)
        log.info(
            "model loaded",
            extra={
                "model": spec.name,
                "engine": model.info.engine,
                "backend": model.info.backend,
                "library": model.info.library,
                "pid": model.pid,
                "cores": model.cores,
                "pixels": spec.pixels,
            },
        )
        return model
