"""Losses: what a batch asks of a model, as sums that the training loop divides."""
