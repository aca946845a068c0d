"""Metrics, access lines, and what else the gateway says about itself."""
