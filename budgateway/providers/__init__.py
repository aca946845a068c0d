"""Adapters for each kind of model server."""
