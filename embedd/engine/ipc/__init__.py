"""What crosses the socket between the server and a worker process."""
