"""The front door: listens, parses requests, writes responses."""
