"""The model store: Ollama's layout on disk, changed in atomic steps."""
