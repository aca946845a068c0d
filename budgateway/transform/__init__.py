"""Transformation rules: declared edits of requests and answers, bodies and headers."""
