"""Computing vectors: loaded models in the server, worker processes, and the engines in them."""
