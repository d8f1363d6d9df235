"""The only module that imports `pipelines`: it makes sure that they are ours and hands them on."""

from __future__ import annotations

from pathlib import Path

import inceptionctl
import pipelines
from inceptionctl.errors import EnvironmentFault


def _refuse_shadow() -> None:
    """`pipelines` is a generic name, and a launcher may put the working directory first on sys.path."""
    # A folder without __init__.py is a namespace package and has a path too; a single file pipelines.py has none.
    places = list(getattr(pipelines, "__path__", [pipelines.__file__]))
    found, ours = Path(places[0]).resolve(), Path(inceptionctl.__path__[0]).resolve()
    if found.parent != ours.parent or not found.is_dir():
        raise EnvironmentFault(
            f"another package named 'pipelines' hides inceptionctl's own: {found}",
            f"start from another directory than {found.parent}, or take that off PYTHONPATH",
        )


_refuse_shadow()

from pipelines.decoding import decoded  # noqa: E402
from pipelines.evaluation import evaluation  # noqa: E402  (only once they are known to be ours)
from pipelines.probe import headers, images  # noqa: E402
from pipelines.settings import PipelineSettings  # noqa: E402
from pipelines.training import training  # noqa: E402
from pipelines.views import views  # noqa: E402

__all__ = ["PipelineSettings", "decoded", "evaluation", "headers", "images", "training", "views"]
