"""Pages processed on this machine."""
