"""Model in, model out: adapters."""
