"""Small-model mode: code that plans and finds values, and a model that chooses among few options."""
