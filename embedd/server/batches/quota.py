"""How many bytes of files each owner keeps, and all together."""

from collections import Counter
from typing import Final

from embedd.errors import TooLargeError

OVERHEAD: Final = 4096  # bytes that a record counts as: so their number has a limit too


class Quota:
    """Counts bytes on the disk.

    An owner, which is the holder of a key, may have half of *limit*; where there are no keys, all
    clients are one owner, which may have all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._of_owner: Counter[str] = Counter()

    def limit_of(self, owner: str) -> int:
        """Return how many bytes *owner* may have."""
        return self._limit // 2 if owner else self._limit

    def check(self, owner: str, size: int) -> None:
        """Check that *owner* may keep *size* bytes more.

        Raises:
            TooLargeError: It may not.
        """
        of_owner = self.limit_of(owner)
        if self._of_owner[owner] + size > of_owner:
            whose = "your files" if owner else "the files"
            raise TooLargeError(
                f"{whose} and results of batches would have more than {of_owner} bytes "
                "(EMBEDD_BATCH_BYTES): delete files that are no longer needed",
                limit=of_owner,
            )
        if self._total + size > self._limit:
            raise TooLargeError(
                f"the files and results of all batches would have more than {self._limit} bytes "
                "(EMBEDD_BATCH_BYTES): try again when others have been deleted",
                limit=self._limit,
            )

    def add(self, owner: str, size: int) -> None:
        """Count *size* bytes more of *owner*, if they are not too many.

        Raises:
            TooLargeError: They are.
        """
        self.check(owner, size)
        self.count(owner, size)

    def count(self, owner: str, size: int) -> None:
        """Count *size* bytes that are on the disk; fewer where it is negative."""
        self._total += size
        self._of_owner[owner] += size
        if not self._of_owner[owner]:
            del self._of_owner[owner]
