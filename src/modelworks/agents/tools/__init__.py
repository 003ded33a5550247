"""Built-in tools, each made by a function that takes what the user sets and returns a `Tool`."""
