"""What `inceptionctl bench` measures on this machine."""
