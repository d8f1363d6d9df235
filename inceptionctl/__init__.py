"""inceptionctl trains, resumes, evaluates and exports the networks of the Inception-v4 paper (arXiv 1602.07261)."""

__version__ = "0.1.0"
