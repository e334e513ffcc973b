"""Access to the server: API keys, allowed hosts and origins."""
