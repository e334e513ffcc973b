"""Counters and histograms of what has happened, and all metrics of one server.

Names follow the conventions of Prometheus: seconds and bytes, ``_total`` for what only grows.
The values of labels are bounded: routes are those that exist, reasons are enums, models are
those that were loaded, of which removed ones are forgotten before there are too many.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from embedd.metrics.families import Counter, Family, Histogram, make_counters, make_histograms
from embedd.metrics.gauges import StateCollector, make_gauge
from embedd.metrics.labels import DeathReason, LoadFailure, Overload, Unload
from embedd.types import VectorSource

OPEN_METRICS: Final = "application/openmetrics-text"
REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
BATCH_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_TOKENS: Final = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
PICTURE_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
LOAD_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# With so many models that have series, those of removed models are looked for and ended.
MANY_MODELS: Final = 100


_Family = TypeVar("_Family", Family[Counter], Family[Histogram])


class ModelMetrics:
    """The counters of one model, looked up once."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.inputs = metrics.inputs.labels(model)
        self.tokens = metrics.tokens.labels(model)
        self.truncated = metrics.truncated.labels(model)
        self.reused = {source: metrics.reused.labels(model, source) for source in VectorSource}
        self.queue_seconds = metrics.queue_seconds.labels(model)
        self.engine_tokens = metrics.engine_tokens.labels(model)
        self.engine_sequences = metrics.engine_sequences.labels(model)
        self.batch_tokens = metrics.batch_tokens.labels(model)
        self.batch_seconds = metrics.batch_seconds.labels(model)
        self.load_seconds = metrics.load_seconds.labels(model)
        self.load_failures = {why: metrics.load_failures.labels(model, why) for why in LoadFailure}
        self.unloads = {why: metrics.unloads.labels(model, why) for why in Unload}
        self.worker_deaths = {why: metrics.worker_deaths.labels(model, why) for why in DeathReason}
        self.overloads = {what: metrics.overloads.labels(model, what) for what in Overload}
        self.late = metrics.late.labels(model)
        self.cancelled = metrics.cancelled.labels(model)
        self.aborted_batches = metrics.aborted_batches.labels(model)
        self.stuck_batches = metrics.stuck_batches.labels(model)
        self._model = model
        self._backend_failures = metrics.backend_failures

    def backend_failed(self, backend: str) -> None:
        """Count a failure of *backend*: the model continues on the next one."""
        self._backend_failures.labels(self._model, backend).inc()

    def computed(self, *, tokens: int, sequences: int, seconds: float) -> None:
        """Count a batch that the engine computed in *seconds*."""
        self.engine_tokens.inc(tokens)
        self.engine_sequences.inc(sequences)
        self.batch_tokens.observe(tokens)
        self.batch_seconds.observe(seconds)

    def answered(
        self,
        *,
        inputs: int,
        tokens: int,
        truncated: int,
        reused: Mapping[VectorSource, int],
        queue: float,
    ) -> None:
        """Count a request that got its vectors or scores; it waited *queue* seconds."""
        self.inputs.inc(inputs)
        self.tokens.inc(tokens)
        if truncated:
            self.truncated.inc(truncated)
        for source, count in reused.items():
            if count:
                self.reused[source].inc(count)
        self.queue_seconds.observe(queue)


class ImageMetrics:
    """The counters of one image model, looked up once."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.cancelled = metrics.cancelled_pictures.labels(model)
        self._pictures = metrics.pictures.labels(model)
        self._steps = metrics.picture_steps.labels(model)
        self._seconds = metrics.picture_seconds.labels(model)

    def painted(self, *, steps: int, seconds: float) -> None:
        """Count a picture that was painted in *seconds*."""
        self._pictures.inc()
        self._steps.inc(steps)
        self._seconds.observe(seconds)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own lapse
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._models: dict[str, ModelMetrics] = {}
        self._image_models: dict[str, ImageMetrics] = {}
        self._families: list[Family[Counter] | Family[Histogram]] = []
        self._of_models: list[Family[Counter] | Family[Histogram]] = []
        self._looks: list[Callable[[], Iterable[Metric]]] = []
        self._many = MANY_MODELS
        self._is_known: Callable[[str], bool] = lambda _name: True
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.in_flight = 0  # requests that are being answered
        Gauge(
            "embedd_requests_in_flight", "Requests being answered.", registry=self._registry
        ).set_function(lambda: self.in_flight)
        self.request_seconds = self._histogram(
            "request_seconds",
            "Time from a request's headers to the last byte of its answer.",
            REQUEST_SECONDS,
            "route",
        )
        self._count_requests()
        self._count_computing()
        self._count_pictures()
        self._count_models()

    def _count_requests(self) -> None:
        """Make the metrics of requests."""
        self.inputs = self._counter("inputs", "Inputs answered.", "model")
        self.tokens = self._counter("tokens", "Tokens of the inputs answered.", "model")
        self.truncated = self._counter("truncated_inputs", "Inputs that were truncated.", "model")
        self.reused = self._counter(
            "reused_inputs", "Inputs whose vector was not computed anew.", "model", "source"
        )
        self.queue_seconds = self._histogram(
            "queue_seconds",
            "Time that requests waited for their first batch.",
            BATCH_SECONDS,
            "model",
        )
        self.overloads = self._counter(
            "overloads", "Requests refused because the queue was full.", "model", "reason"
        )
        self.late = self._counter(
            "late_requests", "Requests that could not be computed by their deadline.", "model"
        )
        self.cancelled = self._counter(
            "cancelled_requests",
            "Requests whose client left while the model loaded or computed.",
            "model",
        )

    def _count_computing(self) -> None:
        """Make the metrics of the engines."""
        self.engine_tokens = self._counter("engine_tokens", "Tokens computed.", "model")
        self.engine_sequences = self._counter("engine_sequences", "Sequences computed.", "model")
        self.batch_tokens = self._histogram(
            "batch_tokens", "Tokens of the computed batches.", BATCH_TOKENS, "model"
        )
        self.batch_seconds = self._histogram(
            "batch_seconds", "Time that batches took to compute.", BATCH_SECONDS, "model"
        )
        self.aborted_batches = self._counter(
            "aborted_batches", "Batches stopped because their clients left.", "model"
        )
        self.stuck_batches = self._counter(
            "stuck_batches", "Batches stopped because they took too long.", "model"
        )

    def _count_pictures(self) -> None:
        """Make the metrics of image models."""
        self.pictures = self._counter("pictures", "Pictures painted.", "model")
        self.picture_steps = self._counter("picture_steps", "Steps of pictures painted.", "model")
        self.picture_seconds = self._histogram(
            "picture_seconds", "Time that pictures took to paint.", PICTURE_SECONDS, "model"
        )
        self.cancelled_pictures = self._counter(
            "cancelled_pictures", "Pictures whose client left before they were painted.", "model"
        )

    def _count_models(self) -> None:
        """Make the metrics of models and their workers."""
        self.load_seconds = self._histogram(
            "load_seconds", "Time that loading took.", LOAD_SECONDS, "model"
        )
        self.load_failures = self._counter(
            "load_failures", "Loads that failed or were refused.", "model", "reason"
        )
        self.unloads = self._counter(
            "unloads", "Times that a model was unloaded.", "model", "reason"
        )
        self.worker_deaths = self._counter(
            "worker_deaths",
            "Workers that died; counted at the next load or request.",
            "model",
            "reason",
        )
        self.backend_failures = self._counter(
            "backend_failures",
            "Times that a model fell back to the next backend.",
            "model",
            "backend",
        )

    def of_model(self, name: str) -> ModelMetrics:
        """Return the counters of the stored model *name*."""
        found = self._models.get(name)
        if found is None:
            if len(self._models) >= self._many:
                self._forget_unknown()
            found = self._models[name] = ModelMetrics(self, name)
        return found

    def of_image_model(self, name: str) -> ImageMetrics:
        """Return the further counters of the stored image model *name*."""
        self.of_model(name)  # with which they are removed
        found = self._image_models.get(name)
        if found is None:
            found = self._image_models[name] = ImageMetrics(self, name)
        return found

    def watch(
        self,
        look: Callable[[], Iterable[Metric]],
        is_known: Callable[[str], bool] = lambda _name: True,
    ) -> None:
        """Call *look* for further metrics whenever the metrics are read.

        Args:
            is_known: Whether a model of this name is in memory or in the store. Called when
                there are many: series of models that are in neither are removed.
        """
        self._registry.register(StateCollector(look))
        self._looks.append(look)
        self._is_known = is_known

    def collect(self, names: Collection[str]) -> Iterator[Metric]:
        """Yield the counters and histograms called *names* as they are now, and the gauges.

        Unlike `expose` it makes nothing of the others, of which those by route are the most.
        """
        for family in self._families:
            if family.name in names:
                yield from family.collect()
        yield make_gauge("requests_in_flight", "", (), {(): self.in_flight})
        for look in self._looks:
            yield from look()

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that *accept* asks for, and its content type."""
        # The header itself is not passed on: the library fails on versions that are not numbers.
        wanted = f"{OPEN_METRICS}; version=1.0.0" if OPEN_METRICS in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(self._registry), content_type

    def _forget_unknown(self) -> None:
        for name in [name for name in self._models if not self._is_known(name)]:
            del self._models[name]
            self._image_models.pop(name, None)
            for metric in self._of_models:
                metric.remove("model", name)
        # Each look-up reads the store: not again before there are twice as many.
        self._many = max(MANY_MODELS, 2 * len(self._models))

    def _counter(self, name: str, text: str, *labels: str) -> Family[Counter]:
        return self._keep(make_counters(f"embedd_{name}", text, labels, self._registry), labels)

    def _histogram(
        self, name: str, text: str, bounds: Sequence[float], *labels: str
    ) -> Family[Histogram]:
        made = make_histograms(f"embedd_{name}", text, labels, bounds, self._registry)
        return self._keep(made, labels)

    def _keep(self, family: _Family, labels: Sequence[str]) -> _Family:
        self._families.append(family)
        if "model" in labels:
            self._of_models.append(family)
        return family
