"""Watching folders: which files are new or changed and still, and running their jobs."""
