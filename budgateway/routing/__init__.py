"""Stage 3: which route answers a request, and which models a body asks for."""
