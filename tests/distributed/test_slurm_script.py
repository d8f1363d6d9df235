"""The batch script and its options, without a cluster: text, refusals, exit codes."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from inceptionctl.distributed.slurm import batch_script, seconds_of
from inceptionctl.errors import RecipeError
from tests.commands import TINY, inceptionctl, refused, sets

NODES = ("--nodes", "2", "--cpu-ranks-per-node", "2")


def script(**changes: object) -> str:
    arguments: dict[str, object] = {
        "run": Path("/runs/v4"),
        "directory": Path("/home/x"),
        "python": "/venv/bin/python",
        "time": "12:00:00",
        "nodes": 5,
        "ranks_per_node": 4,
        "cpus_per_rank": 8,
        "on_cpu": False,
    }
    return batch_script(**(arguments | changes))  # type: ignore[arg-type]


def options(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("12:00:00", 43200), ("2-0", 172800), ("1-2:30", 95400), ("1-2:30:15", 95415)],
)
def test_times_in_every_form_of_slurm(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["", "0", "0:00", "12h", "1:2:3:4", "-5", "1-", "1-2:3:4:5", "12:00:00\n"])
def test_other_times_are_refused(time: str) -> None:
    with pytest.raises(RecipeError):
        seconds_of(time)


def test_the_paper_s_twenty_gpus() -> None:
    text = script(options={"partition": "gpu", "account": None}, extra=["--mem=0", "--comment=a b"])
    found = options(text)
    for wanted in ("--nodes=5", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8", "--time=12:00:00"):
        assert wanted in found
    assert {"--requeue", "--signal=USR1@180", "--open-mode=append", "--partition=gpu", "--output=/runs/v4/slurm/%j.out"} <= {
        *found
    }
    assert found[-1] == "--mem=0 '--comment=a b'"
    assert "account" not in text and "DS_ACCELERATOR" not in text
    assert sum(line.startswith("srun ") for line in text.splitlines()) == 1


def test_the_notice_is_at_most_half_of_the_time() -> None:
    assert "--signal=USR1@30" in script(time="1")
    assert "--signal=USR1@20" in script(time="1", notice_seconds=20)
    with pytest.raises(RecipeError, match="time limit of 1 is 60 s"):
        script(time="1", notice_seconds=60)


def test_an_array_goes_on_in_one_run_without_requeue() -> None:
    text = script(array="1-10%1")
    assert "--array=1-10%1" in options(text) and "--output=/runs/v4/slurm/%A.out" in options(text)
    assert 'scontrol requeue "$SLURM_JOB_ID"' not in text
    with pytest.raises(RecipeError, match="one after the other"):
        script(array="0-4")


def test_containers() -> None:
    mounts = (Path("/runs/v4"), Path("/data/image net"))
    pyxis = script(container="nvcr.io#nvidia/x:1", mounts=mounts)
    assert "--container-image='nvcr.io#nvidia/x:1'" in pyxis
    assert "'/home/x:/home/x,/runs/v4:/runs/v4,/data/image net:/data/image net' inceptionctl" in pyxis
    assert "apptainer exec --nv --pwd /home/x --bind '/home/x,/runs/v4,/data/image net'" in script(
        container="a.sif", mounts=mounts
    )
    with pytest.raises(RecipeError, match="comma or a colon"):
        script(container="a.sif", mounts=(Path("/a,b"),))


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash"])
def test_names_that_slurm_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        script(run=Path("/runs") / name)


@pytest.mark.parametrize("name", ['it\'s $HOME `id` "x"', "100%", "-x ; exit 3 #"])
def test_bash_reads_the_script_with_any_name(name: str, tmp_path: Path) -> None:
    text = script(run=tmp_path / name, array="1-2%1")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    start = next(line for line in text.splitlines() if line.startswith("run="))
    printed = subprocess.run(["bash", "-c", f'{start}\nprintf %s "$run"'], capture_output=True, text=True, check=True).stdout
    assert printed == str(tmp_path / name)


def test_dry_run_prints_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}")
    command = ("slurm", "submit", "inception_v4", *settings, *NODES, "--time", "1:00:00", "--dry-run", "--output", "run")
    result = inceptionctl(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("#!/bin/bash\n") and f"run={tmp_path}/run" in result.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*NODES, "--time", "soon"), ("--time 'soon' is not a time",)),
        (("--nodes", "2", "--time", "1"), ("--gpus-per-node or --cpu-ranks-per-node",)),
        ((*NODES, "--gpus-per-node", "2", "--time", "1"), ("--gpus-per-node or --cpu-ranks-per-node",)),
        ((*NODES, "--time", "1", "--sbatch", '"open'), ("--sbatch", "closing quotation")),
        (("--nodes", "3", "--cpu-ranks-per-node", "1", "--time", "1"), ("global_batch_size",)),
    ],
)
def test_bad_arguments_end_with_2(root: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}")
    refused(inceptionctl("slurm", "submit", "inception_v4", *settings, *arguments, cwd=tmp_path), 2, *words)
    assert not any(tmp_path.iterdir())


def test_without_sbatch_it_ends_with_4_and_no_submit_writes_the_script(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}")
    command = ("slurm", "submit", "inception_v4", *settings, *NODES, "--time", "1:00:00", "--output", "run")
    empty = tmp_path / "bin"
    empty.mkdir()
    refused(inceptionctl(*command, cwd=tmp_path, PATH=str(empty)), 4, "no sbatch here", "--no-submit")
    assert not (tmp_path / "run").exists()
    result = inceptionctl(*command, "--no-submit", cwd=tmp_path, PATH=str(empty))
    assert result.returncode == 0, result.stderr
    assert os.access(tmp_path / "run" / "slurm" / "job.sh", os.R_OK) and "sbatch " in result.stderr
    refused(inceptionctl("slurm", "status", "run", cwd=tmp_path), 5, "was never submitted to Slurm")


def test_each_member_of_an_ensemble_is_a_job(root: Path, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("members: {a: {}, b: {model: {name: inception_resnet_v2}}}\n", encoding="utf-8")
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}")
    command = ("slurm", "submit", "two.yaml", *settings, *NODES, "--time", "1:00:00", "--output", "both")
    dry = inceptionctl(*command, "--dry-run", "--json", cwd=tmp_path)
    assert [Path(one["run"]).name for one in json.loads(dry.stdout)] == ["a", "b"]
    result = inceptionctl(*command, "--no-submit", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in "ab":
        script = tmp_path / "both" / name / "slurm" / "job.sh"
        assert f"run={tmp_path}/both/{name}\n" in script.read_text() and f"sbatch {script}" in result.stderr
    # What it says to type next finds these runs.
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("when all are trained: inceptionctl ")]
    states = inceptionctl(*shlex.split(line)[5:], "--dry-run", "--json", cwd=tmp_path)
    assert states.returncode == 0, states.stderr
    assert [one["to_do"] for one in json.loads(states.stdout)["members"]] == ["to be trained", "to be trained"]
