"""Documents to cited answers: load, chunk, store, search, answer."""
