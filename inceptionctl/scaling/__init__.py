"""What more GPUs would bring: rates, time and cost of a training, predicted from one GPU's measured step (docs/scaling.md)."""
