"""What a run has to do, settled before it begins."""
