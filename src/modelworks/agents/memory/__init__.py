"""Memory: within a run under a budget of tokens, of earlier runs, and facts; and how each is forgotten."""
