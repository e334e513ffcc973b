"""Seeded tensors for tiny models, large enough that each of them shows in the vectors."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[np.float32]]


class TensorSource:
    """Makes the same tensors for the same *seed* and order of calls."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def vector(self, size: int, scale: float = 0.5) -> npt.NDArray[np.float32]:
        return self._random.standard_normal(size, np.float32) * np.float32(scale)

    def matrix(self, rows: int, columns: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """Keeps the size of what it is applied to, times *scale*."""
        values = self._random.standard_normal((rows, columns), np.float32)
        return values * np.float32(scale / columns**0.5)

    def dense(
        self, name: str, rows: int, columns: int, *, bias: bool = False, scale: float = 1.0
    ) -> Tensors:
        """A linear layer's tensors."""
        tensors = {f"{name}.weight": self.matrix(rows, columns, scale)}
        return tensors | ({f"{name}.bias": self.vector(rows)} if bias else {})

    def norm(self, name: str, width: int, *, bias: bool = False) -> Tensors:
        """A norm's tensors."""
        tensors = {f"{name}.weight": 1 + self.vector(width, 0.3)}
        return tensors | ({f"{name}.bias": self.vector(width)} if bias else {})


def merge(*parts: Mapping[str, npt.NDArray[np.float32]]) -> Tensors:
    """Join tensors; each name occurs once."""
    joined: Tensors = {}
    for part in parts:
        assert not joined.keys() & part.keys()
        joined |= part
    return joined
