"""Texts to token numbers, as checkpoints have it."""
