"""What makes and trains the small networks: drawn pages, losses, the loop; none of it is in the wheel."""
