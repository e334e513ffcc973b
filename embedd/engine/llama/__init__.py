"""The reference engine: GGUF models computed by llama.cpp."""
