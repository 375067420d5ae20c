"""The executor of a Ray cluster: an actor for each GPU, or for a few cores, processes pages with the local executor."""
