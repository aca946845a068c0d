"""The downstream side: listens, parses requests, writes responses."""
