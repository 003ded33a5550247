"""Feedback: what people and principles prefer, and what a model that is trained on it makes of that."""
