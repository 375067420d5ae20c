"""Estimates of time and cost before a run, from measured rates."""
