"""The exchange: one request and its response in flight, and the contracts around it."""
