"""Remote machines, reached over SSH."""
