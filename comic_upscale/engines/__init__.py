"""Engines: whatever takes a batch of pixels and returns larger ones."""
