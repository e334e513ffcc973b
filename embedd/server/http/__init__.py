"""HTTP: request bodies, JSON answers, streams, request ids, TLS."""
