"""Where the rows of metrics go besides the run directory."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from inceptionctl.section import Section


def _with_value(tag: str) -> str:
    if not tag.partition("=")[0] or "=" not in tag:
        raise ValueError(f"{tag!r} is not KEY=VALUE")
    return tag


class WandbSection(Section):
    """Weights & Biases; its own environment variables (WANDB_MODE, WANDB_API_KEY, WANDB_BASE_URL, WANDB_ENTITY) hold."""

    enabled: bool = False
    """Log to Weights & Biases too (`pip install 'inceptionctl[wandb]'`)."""
    project: str = Field(default="inceptionctl", min_length=1)
    """Project of the run."""
    name: str | None = None
    """Display name of the run; null is the name of the run directory."""
    tags: list[str] = Field(default=[])
    """Tags of the run."""


class MlflowSection(Section):
    """MLflow tracking; its own environment variables (MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN, ...) hold."""

    enabled: bool = False
    """Log to MLflow too (`pip install 'inceptionctl[mlflow]'`)."""
    experiment: str = Field(default="inceptionctl", min_length=1)
    """Experiment of the run, created if it is missing."""
    tracking_uri: str | None = None
    """Tracking server or local store, `http://HOST:5000` or `sqlite:///FILE`; null is MLflow's own choice, `MLFLOW_TRACKING_URI`."""
    name: str | None = None
    """Display name of the run; null is the name of the run directory."""
    tags: list[Annotated[str, AfterValidator(_with_value)]] = Field(default=[])
    """Tags of the run, each `KEY=VALUE`."""


class LogSection(Section):
    """Experiment trackers beside TensorBoard; they get the rows of metrics.jsonl."""

    wandb: WandbSection = WandbSection()
    """Weights & Biases."""
    mlflow: MlflowSection = MlflowSection()
    """MLflow."""
