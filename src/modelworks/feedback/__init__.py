"""Preferences of people: comparisons made, judged, measured and exported."""
