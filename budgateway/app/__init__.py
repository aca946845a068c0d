"""One process, wired: the composition root and the data plane."""
