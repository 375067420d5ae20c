"""Hooks: telling other programs that a volume or a job is done."""
