"""Pixels: decoding, encoding, colour, gray, alpha and tone."""
