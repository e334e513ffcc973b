"""Uploaded files and the batches of requests that they hold, kept in the state folder."""
