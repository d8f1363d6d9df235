"""Use of a trained network: errors on validation images, and the classes of single ones."""
