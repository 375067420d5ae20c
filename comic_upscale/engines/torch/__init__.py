"""The engine that runs a network with PyTorch."""
