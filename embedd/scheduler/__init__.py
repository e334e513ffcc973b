"""The scheduler: which models are in memory, with leases, loads, expiry and eviction."""
