"""What tests read of a page."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Images, links, table rows and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        for key in ("src", "srcset", "href", "data"):
            if key in values and not str(values[key]).startswith("data:"):
                self.outside.append(f"{tag} {values[key]}")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += " ".join(data.split())
