"""Evaluation of quality: scores against originals, likeness to sources, and comparison of models."""
