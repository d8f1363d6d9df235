"""DALI graphs: flat arguments in, a pipeline out. A leaf: nothing here imports inceptionctl."""
