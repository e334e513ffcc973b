"""The page for browsers: its files, and what it shows that no other route has."""

from embedd.server.ui.live import Live
from embedd.server.ui.routes import DIALECT, LIVE, watch_live

__all__ = ["DIALECT", "LIVE", "Live", "watch_live"]
