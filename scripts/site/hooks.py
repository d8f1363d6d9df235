"""What mkdocs does beside its own work: generated tables go into their pages, two files from the top of the repository become pages."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parents[2]
GENERATED = TOP / "build" / "docs" / "reference"
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: Any) -> Files:
    """The changelog and the guide for contributors, which GitHub wants at the top, as pages."""
    for name in OUTSIDE:
        text = (TOP / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`<!-- generated: NAME -->` and what follows on the page, a pointer for readers on GitHub, gives way to the generated file."""
    for name in OUTSIDE:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    found = re.search(r"^<!-- generated: ([\w-]+) -->$.*\Z", markdown, re.M | re.S)
    if not found:
        return markdown
    return markdown[: found.start()] + (GENERATED / f"{found[1]}.md").read_text(encoding="utf-8")
