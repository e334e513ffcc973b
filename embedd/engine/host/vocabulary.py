"""The tokenizer of a model whose weights are not in memory."""

from collections.abc import Sequence

from embedd.engine.host.process import WorkerProcess
from embedd.engine.spec import ModelInfo
from embedd.types import TokenIds, TokenPiece


class Vocabulary:
    """A worker that has nothing but a vocabulary. Made by `Loader.open_vocabulary`."""

    def __init__(self, worker: WorkerProcess, info: ModelInfo) -> None:
        self._worker = worker
        self.info = info

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """See `Tokenizer.tokenize`."""
        return await self._worker.tokenize(
            texts, add_special=add_special, parse_special=parse_special
        )

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """See `Tokenizer.detokenize`."""
        return await self._worker.detokenize(sequences, special=special)

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """See `Tokenizer.token_pieces`."""
        return await self._worker.token_pieces(ids)
