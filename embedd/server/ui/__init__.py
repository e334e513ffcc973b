"""The page for browsers: its files, and what it shows that no other route has."""

from embedd.server.ui.routes import DIALECT, watch_live

__all__ = ["DIALECT", "watch_live"]
