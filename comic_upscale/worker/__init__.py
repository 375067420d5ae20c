"""The worker: a process that claims jobs of the server's queue and runs each whole."""
