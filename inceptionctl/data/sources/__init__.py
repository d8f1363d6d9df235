"""What a data set may lie in, and the lists beside it."""
