"""Ways of speaking: each a table of routes with pure translations."""
