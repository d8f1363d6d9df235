"""Another package named `pipelines` must not be taken for ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from inceptionctl.errors import EnvironmentFault
try:
    import inceptionctl.data.loaders
except EnvironmentFault as fault:
    print(fault)
"""


@pytest.mark.parametrize("name", ["pipelines/__init__.py", "pipelines/training.py", "pipelines.py"])
def test_a_shadow_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    command = [sys.executable, "-P", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    if name == "pipelines/training.py" and not done.stdout:
        return  # A folder without __init__.py comes after any package on sys.path: depending on the installation ours was found.
    assert f"another package named 'pipelines' hides inceptionctl's own: {tmp_path}" in done.stdout
    assert f"start from another directory than {tmp_path}" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_process_that_probes_is_not_shadowed(tmp_path: Path, root: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__init__.py").write_text("raise RuntimeError('not ours')")
    program = "import pathlib, sys, inceptionctl.data.audit.check as c; print(len(c.check(pathlib.Path(sys.argv[1]), 1).bad))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(root)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "0"
