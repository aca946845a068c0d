"""The Redis client for state that gateways on several hosts share, with deadlines of milliseconds."""
