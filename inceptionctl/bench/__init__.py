"""Measurements on this machine: the data path, and what opening a large list of images costs."""
