"""How to speak to each kind of model server."""
