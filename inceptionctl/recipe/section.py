"""What every section of a recipe has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Tree = dict[str, Any]
"""Sections as YAML and JSON hold them: plain values by key, and trees of them."""


class Section(BaseModel):
    """Base of every section: strict types, no unknown keys, values that cannot be changed after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
