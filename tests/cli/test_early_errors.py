"""What is wrong with the words of a command is told before torch is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

from inceptionctl.recipe import load_recipe
from inceptionctl.run import create_run
from tests.commands import environment

MISTAKES = {
    "evaluate runs/none": 5,
    "evaluate runs/empty": 5,
    "evaluate photo.jpg --data nowhere": 3,
    "evaluate photo.jpg --blacklist nowhere": 3,
    "evaluate photo.jpg --real-labels nowhere": 3,
    "evaluate photo.jpg --show-crops nowhere": 3,
    "evaluate runs/none --all --output x": 2,
    "export runs/none": 5,
    "export runs/empty": 5,
    "export runs/none --format pt2 --precision int8": 5,
    "export photo.jpg --format pt2 --precision int8": 2,
    "export photo.jpg --data nowhere": 3,
    "predict runs/none photo.jpg": 5,
    "predict photo.jpg nowhere.jpg": 3,
    "predict photo.jpg photo.jpg --protocol dense": 2,
    "predict photo.jpg nowhere --submission s.txt": 3,
    "predict photo.jpg photo.jpg --submission s.txt --class-ids nowhere": 3,
    "report runs/none": 5,
    "report nowhere.json": 3,
    "ensemble runs/none runs/other": 3,
    "ensemble runs/none --weights x": 2,
    "checkpoints list runs/none": 5,
    "checkpoints show runs/none": 5,
    "checkpoints verify runs/none": 5,
    "runs show none": 5,
    "watch none": 5,
    "slurm status none": 5,
    "train nowhere": 2,
    "train quickstart --set data.root=nowhere": 3,
    "train quickstart --set data.root=nowhere --dry-run": 3,
    "train quickstart --resume runs/none --set model.freeze=[] --set data.root=nowhere": 3,
    "recipes check nowhere": 2,
    "recipes check quickstart --set model.init_from=nowhere": 5,
    "weights import nowhere.pth --model resnet_18": 5,
    "weights import photo.jpg --model resnet50": 2,
    "weights import photo.jpg --model resnet_18 --class-names nowhere": 2,
    "models show resnet50": 2,
    "models show inception_v4 --width -1": 2,
    "data check nowhere": 3,
    "data pack nowhere packed": 3,
    "bench evaluate runs/empty": 5,
    "bench compare a.json b.json": 3,
    "plan nowhere": 2,
}
# Each in turn in one process: the first that imports torch is the one that is seen to.
CODE = """
import json, sys
from inceptionctl.cli import app
found = {}
for words in json.loads(sys.argv[1]):
    try:
        app(words.split())
    except SystemExit as ended:
        found[words] = ended.code
    if "torch" in sys.modules:
        sys.exit(f"torch is imported by: {words}")
print("FOUND", json.dumps(found))
"""


def test_torch_is_not_imported_for_a_mistake(tmp_path: Path) -> None:
    create_run(tmp_path / "runs" / "empty", load_recipe("quickstart"))
    (tmp_path / "photo.jpg").write_bytes(b"")
    command = [sys.executable, "-P", "-c", CODE, json.dumps(list(MISTAKES))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.partition("FOUND ")[2]) == MISTAKES
