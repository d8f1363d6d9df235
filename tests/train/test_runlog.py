"""What the writers of a run bring along."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import create_run
from inceptionctl.train.runlog import RunLog

run = create_run(Path(sys.argv[1]), recipe_from_dict({}, "test"))
log = RunLog(run, start_step=0, enabled=True)
log.row("train", {"step": 1, "epoch": 0.1, "loss": 2.0})
log.close()
assert list(run.tensorboard.iterdir())
print("tensorflow" in sys.modules)
"""


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed: scripts/environment does it")
def test_tensorboard_events_are_written_without_importing_tensorflow(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
