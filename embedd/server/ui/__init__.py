"""The page for browsers: its files, and what it shows that no other route has."""

from embedd.server.ui.live import FAMILIES, Live
from embedd.server.ui.routes import DIALECT, LIVE, watch_live

__all__ = ["DIALECT", "FAMILIES", "LIVE", "Live", "watch_live"]
