"""Books: the formats besides CBZ that a volume can be written in."""
