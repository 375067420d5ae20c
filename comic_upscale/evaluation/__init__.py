"""How good pages came out: scores against originals, likeness to sources, and which model does best."""
