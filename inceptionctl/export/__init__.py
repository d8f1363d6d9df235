"""Exports: a trained network as files that other programs read, each compared with the checkpoint before it takes its place."""
