"""The one place that knows ranks."""
