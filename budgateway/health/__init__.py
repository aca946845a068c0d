"""Health checks: probes of upstreams, with results shared by all workers."""
