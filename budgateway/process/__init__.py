"""Processes: supervisor, workers, signals, upgrades."""
