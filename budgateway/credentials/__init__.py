"""API keys and key sets, kept fresh by the supervisor."""
