"""Scores: what a model's answers are worth, with their uncertainty."""
