"""Files of secrets: who may read them."""

import logging
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def warn_if_readable(path: Path, what: str) -> None:
    """Log a warning if every user of the machine can read the secrets in the file *path*."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IROTH:
        log.warning(
            "other users of this machine can read a file of secrets: chmod 600",
            extra={"path": path, "holds": what, "mode": f"{mode:o}"},
        )
