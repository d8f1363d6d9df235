"""What every section of a recipe has in common, and types of its keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Tree = dict[str, Any]
"""Sections as YAML and JSON hold them: plain values by key, and trees of them."""

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: strict types, no unknown keys, values that cannot be changed after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
