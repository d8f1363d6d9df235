"""Jinja templates of the pages that `report` and `study` write."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_templates(package: str, *, unknown: str) -> Environment:
    """The templates beside a package's modules. `data_uri` makes a PNG's bytes a part of the page, `number` prints None as `unknown`."""
    from jinja2 import Environment, PackageLoader

    templates = Environment(loader=PackageLoader(package, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["data_uri"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    templates.filters["number"] = lambda value, digits=2: unknown if value is None else f"{value:,.{digits}f}"
    return templates
