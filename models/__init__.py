"""The catalogue: one recipe per model, as TOML."""
