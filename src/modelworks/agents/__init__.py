"""Agents: a model that acts through tools, step by step, under a policy and in front of a journal."""
