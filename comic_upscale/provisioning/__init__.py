"""Rented machines: clients of the providers, launching and ending a machine, the switch that ends it from inside."""
