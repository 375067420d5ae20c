"""The migrations, in `versions`. Never change one that was released: add another."""
