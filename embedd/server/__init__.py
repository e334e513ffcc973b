"""The HTTP server: the application, its dialects, access control, operations."""
