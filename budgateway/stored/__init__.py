"""Stored objects: requests about a response, a file, a batch or a conversation go to the upstream that holds it."""
