"""The order of the stages, its execution, and the fast path."""
