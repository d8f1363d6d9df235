"""The child process of `tf_checkpoint`: a checkpoint's name and a file to write; one line of JSON on stdout."""

from __future__ import annotations

import json
import sys

import numpy as np
from safetensors.numpy import save_file


def main(checkpoint: str, file: str) -> None:
    """Copy every variable into a safetensors file. Says {"set_aside": {name: reason}} or {"error": why}."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(checkpoint)
        types = reader.get_variable_to_dtype_map()
        numbers = [name for name, kind in types.items() if kind.is_floating or kind.is_integer or kind.is_bool]
        # bfloat16 and half have no name in numpy's safetensors, or fewer digits than are needed here.
        variables = {
            name: np.asarray(reader.get_tensor(name), np.float32 if types[name].is_floating else np.int64, order="C")
            for name in numbers
        }
    except Exception as error:  # tf.errors.OpError, ValueError, RuntimeError: as the file is bad
        lines = str(error).splitlines() or [type(error).__name__]
        print(json.dumps({"error": lines[0]}))
        return
    save_file(variables, file)
    print(json.dumps({"set_aside": {name: f"no numbers but {types[name].name}" for name in types if name not in variables}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
