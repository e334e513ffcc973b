"""Which models are in memory: leases, loading, expiry, eviction."""
