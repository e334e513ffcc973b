"""Reading GGUF files: bounded, streaming, without the weights."""
