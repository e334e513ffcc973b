"""What the APIs that paint share: fields of requests, answers, streams."""
