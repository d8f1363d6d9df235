"""Lets `import timm` work with a torch for CPUs alone: torchvision has no such build, and its operators are missing then.

Python runs a module of this name at its start when the folder is on PYTHONPATH. Nothing is imported before timm is asked for.
"""

import importlib.util
import sys


class BeforeTimm:
    """Finds nothing; the first time that timm is looked for it declares the two operators that torchvision only looks up."""

    def find_spec(self, name, path=None, target=None):
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        import torch

        if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
            BeforeTimm.library = torch.library.Library("torchvision", "DEF")  # kept: it is undone when it is collected
            for operator in ("nms", "qnms"):
                BeforeTimm.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, BeforeTimm())
