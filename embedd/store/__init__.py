"""The model store: Ollama's layout on disk, changed only in whole steps."""
