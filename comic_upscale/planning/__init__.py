"""Planning: find pages and decide what a run must do, before it starts."""
