"""Torch-free basics that every layer may use."""
