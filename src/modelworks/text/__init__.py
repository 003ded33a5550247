"""Tokens and dialogue: tokenizers, the chat renderer, streaming detokenisation."""
