"""Executors: they take claimed pages and return outcomes, on this machine or on another one."""
