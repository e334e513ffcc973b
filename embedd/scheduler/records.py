"""Records of the scheduler: a model in memory, its status, a model that requests wait for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from embedd.engine.image_spec import ImageInfo, ImageSpec
from embedd.engine.serving.image_model import ServedImageModel
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.metrics import Unload
from embedd.scheduler.expiry import Clock, Expiry
from embedd.types import Located, TokenIds, TokenPiece

AnySpec: TypeAlias = ModelSpec | ImageSpec
AnyModel: TypeAlias = ServedModel | ServedImageModel


class Vocabulary(Protocol):
    """A model's tokenizer, with or without its weights in memory."""

    @property
    def info(self) -> ModelInfo:
        """Facts of the model; without weights its numbers are 0."""
        ...

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = ..., parse_special: bool = ...
    ) -> list[TokenIds]:
        """Return the ids of each text; see `Tokenizer.tokenize`."""
        ...

    async def locate(self, texts: Sequence[str], *, parse_special: bool = ...) -> list[Located]:
        """Return the ids of each text and their places in it; see `Tokenizer.locate`."""
        ...

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """Return the text of each sequence; see `Tokenizer.detokenize`."""
        ...

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """Return what each token stands for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What ``ps``, metrics and the health check show of a model in memory or being loaded.

    Args:
        size: Bytes that count towards the memory budget.
        expires_in: Seconds until it is unloaded if no request comes; ``math.inf`` is never,
            negative means that it is being unloaded.
        info: Facts of the loaded model; None while it is being loaded.
        pid: Process id of its worker; None while it is being loaded, or has no worker.
        waiting_tokens: Tokens that wait for a batch.
        waiting_requests: Requests that have such tokens; of an image model, pictures that wait.
        cores: Cores that it may use now.
        is_calibrated: Whether its settings were measured on this machine.
        unhealthy_reason: Why it can no longer compute, or not at the moment; None if it can.
    """

    spec: AnySpec
    size: int
    expires_in: float
    info: ModelInfo | ImageInfo | None = None
    pid: int | None = None
    waiting_tokens: int = 0
    waiting_requests: int = 0
    cores: int = 0
    is_calibrated: bool = False
    unhealthy_reason: str | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Resident:
    """A model in memory.

    Attributes:
        users: Open leases.
        leaving: Why it is being unloaded; None while it takes new leases.
        unloading: The task that unloads it, once all leases have ended.
    """

    spec: AnySpec
    model: AnyModel
    size: int
    expiry: Expiry
    users: int
    leaving: Unload | None = None
    unloading: asyncio.Task[None] | None = None

    def status(self, clock: Clock) -> ModelStatus:
        """Return its present status."""
        return ModelStatus(
            spec=self.spec,
            size=self.size,
            expires_in=self.expiry.seconds_left(clock) if self.leaving is None else -1.0,
            info=self.model.info,
            pid=self.model.pid,
            waiting_tokens=self.model.waiting_tokens,
            waiting_requests=self.model.waiting_requests,
            cores=self.model.cores,
            is_calibrated=self.model.is_calibrated,
            unhealthy_reason=self.model.unhealthy_reason or self.model.silence,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Wanted:
    """A model that requests wait for.

    Attributes:
        ready: Gets the loaded model, or the error of the load.
        waiters: Requests that wait.
        task: The load, once it has begun.
    """

    spec: AnySpec
    size: int
    keep_alive: float
    ready: asyncio.Future[Resident]
    waiters: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def loading(self) -> bool:
        """Whether its load has begun."""
        return self.task is not None
