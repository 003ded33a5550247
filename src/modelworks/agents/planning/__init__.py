"""Planning: ways to spend a model's calls on one task, each under a budget that it cannot overshoot."""
