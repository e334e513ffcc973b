"""HTTP: the app, its dialects, its doors and locks."""
