"""Estimates of time and cost before a run, from measured rates; and what this machine offers, for `doctor`."""
