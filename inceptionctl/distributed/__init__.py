"""From one command to N ranks, on this machine or under another launcher."""
