"""Reads the recipes: a name → where the model comes from and how it is used."""
