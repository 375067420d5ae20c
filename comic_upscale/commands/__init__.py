"""The commands, one file each. Only here and in ``console`` does the program talk to the user."""
