"""Rate, time and cost of a training on more GPUs, predicted from one GPU's measured step (docs/scaling.md)."""
