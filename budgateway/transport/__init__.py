"""The way out: connections to upstreams, kept alive and pooled."""
