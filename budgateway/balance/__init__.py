"""Load balancing: the choice of an upstream, retries, hedging, queues and mirrors."""
