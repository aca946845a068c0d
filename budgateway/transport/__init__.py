"""Connections to upstreams: dialled, kept alive and pooled."""
