"""Generation: sampling, caches, streaming decoding."""
