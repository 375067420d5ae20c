"""Engines: they take a batch of pages and return them enlarged."""
