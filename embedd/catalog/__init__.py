"""The catalogue of recipes: where a model comes from and how it is used, by name."""
