"""Pages: what they are, where they are found, how they are read and written. Never imports torch."""
