"""Text and live displays for a terminal."""
