"""Two results side by side, and what is no result."""

import json
from pathlib import Path
from typing import Any

from tests.commands import inceptionctl, refused


def written(path: Path, bench: str, commit: str, **medians: float) -> Path:
    figures: list[dict[str, Any]] = [
        {"name": name, "unit": "s", "median": value, "low": 0.9 * value, "high": 1.1 * value, "n": 1, "values": [value]}
        for name, value in medians.items()
    ]
    path.write_text(json.dumps({"bench": bench, "commit": commit, "figures": figures}))
    return path


def test_two_results(tmp_path: Path) -> None:
    one = written(tmp_path / "a.json", "step", "abc", loop=1.0, near=1.0, gone=3.0)
    other = written(tmp_path / "b.json", "step", "def", loop=2.0, near=1.1)
    done = inceptionctl("bench", "compare", one, other, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(each["name"], each["ratio"], each["ranges_overlap"]) for each in found["figures"]] == [
        ("loop", 2.0, False),
        ("near", 1.1, True),
    ]
    assert found["differ"] == ["commit: abc and def"] and found["alone"] == ["gone (s)"]
    shown = inceptionctl("bench", "compare", one, other)
    assert "2.000" in shown.stdout and "apart" in shown.stdout and "differs: commit" in shown.stderr


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.json", "step", "a", loop=1.0), written(tmp_path / "b.json", "data", "a", loop=1.0)
    refused(inceptionctl("bench", "compare", one, other), 3, "bench step", "bench data")
    refused(inceptionctl("bench", "compare", one, tmp_path / "none.json"), 3, "cannot read", "none.json")
    (tmp_path / "c.json").write_text('{"bench": "step", "figures": [{"name": "loop"}]}')
    refused(inceptionctl("bench", "compare", one, tmp_path / "c.json"), 3, "is no result")
    refused(inceptionctl("bench", "compare", one, written(tmp_path / "d.json", "step", "a", x=1.0)), 3, "no figure in common")
