"""Looks at every page that was made: whether it is still the page that it was made from."""
