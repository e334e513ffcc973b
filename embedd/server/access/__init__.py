"""Who may use the server: API keys, hosts and origins."""
