"""Restores faces of photographs after an engine has enlarged the page. Off by default; see `filter.py`."""
