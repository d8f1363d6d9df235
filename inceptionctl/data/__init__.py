"""The data path: what is in a data set, who comes when, and the batches that DALI makes of it."""
