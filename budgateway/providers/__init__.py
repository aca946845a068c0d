"""Adapters, which fit requests and answers to a model server: passthrough, and a folder for each translated dialect."""
