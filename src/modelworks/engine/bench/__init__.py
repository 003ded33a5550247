"""How fast and how large: one model measured beside llama.cpp and transformers, each in a process of its own."""
