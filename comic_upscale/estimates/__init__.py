"""Time and money, estimated before a run from measured rates."""
