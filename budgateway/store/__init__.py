"""The Redis client for state shared by gateways on several hosts: one per process, with millisecond deadlines and a
breaker."""
