"""Jobs: one run of a job from beginning to end."""
