"""Teams: several agents at one task, and what one agent does with as many tokens."""
