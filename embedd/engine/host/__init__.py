"""The server's side of worker processes: start, talk, watch, replace."""
