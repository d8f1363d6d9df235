"""Weights in other programs' forms: their names of our layers, and how a file of theirs becomes a checkpoint of ours."""
