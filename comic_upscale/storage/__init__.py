"""Reading sources and writing outputs, whole or not at all."""
