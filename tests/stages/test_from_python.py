"""The stages called from Python as docs/commands.md shows, without the command line. No test of it prints to stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inceptionctl.errors import CheckpointError, DataError, RanksEndedError, RecipeError
from inceptionctl.evaluate.records import write_answers
from inceptionctl.stages import bench_data, bench_ranks, bench_steps, jobs
from inceptionctl.stages.ensemble import Combined, EnsembleRequest, Planned, ensemble
from inceptionctl.stages.plan import PlanRequest, plan
from inceptionctl.stages.submit import Submission, SubmitRequest, submit
from tests.commands import TINY

DOCS = Path(__file__).resolve().parents[2] / "docs" / "commands.md"


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """In a folder of its own; what a stage finds is what it returns."""
    monkeypatch.chdir(tmp_path)
    yield
    assert capfd.readouterr().out == ""


def evaluation(name: str, seed: int) -> Path:
    """What `evaluate` would have written of ten images."""
    torch.manual_seed(seed)
    answers = torch.randn(10, 3).softmax(1).numpy()
    labels = torch.arange(10).remainder(3).numpy()
    about = {"protocol": "single", "classes": ["a", "b", "c"]}
    write_answers(Path(name), [f"val/{i}.jpg" for i in range(10)], labels, ["a", "b", "c"], answers, about)
    return Path(name)


def test_a_job_for_slurm(root: Path) -> None:
    settings = [*TINY, "model.num_classes=3", f"data.root={root}"]
    least = SubmitRequest("inception_v4", 2, "1:00:00", settings, cpu_ranks_per_node=2, output=Path("run"), dry_run=True)
    [dry] = submit(least)
    assert dry.text and dry.text.startswith("#!/bin/bash\n") and "#SBATCH --ntasks-per-node=2" in dry.text
    assert dry.to_json() == {"script": dry.text, "run": str(Path("run").absolute())} and not Path("run").exists()
    told: list[Submission] = []
    request = SubmitRequest("inception_v4", 2, "1:00:00", settings, None, 2, output=Path("run"), no_submit=True)
    [made] = submit(request, on_each=told.append)
    assert told == [made] and made.job is None and made.script
    assert made.script.read_text() == dry.text
    with pytest.raises(CheckpointError, match="never submitted to Slurm"):
        jobs.status(Path("run"))
    with pytest.raises(RecipeError, match="either --gpus-per-node"):
        submit(SubmitRequest("inception_v4", 2, "1:00:00", settings))


def test_a_plan() -> None:
    found = plan(PlanRequest("inception_v4", ["model.name=resnet_18"], (64, 8), images_per_second=2000, price=2.0))
    assert [point.gpus for point in found.points] == [8, 64] and found.remarks
    told = found.to_json()
    assert told["recipe"] == "inception_v4" and told["points"][0]["cost"] == 2 * told["points"][0]["gpu_hours"]
    with pytest.raises(RecipeError, match="is not a positive number"):
        plan(PlanRequest("inception_v4", images_per_second=-1))


def test_an_ensemble_of_evaluations() -> None:
    files = [evaluation("one.parquet", 1), evaluation("two.parquet", 2)]
    dry = ensemble(EnsembleRequest(files, dry_run=True))
    assert isinstance(dry, Planned) and [row["evaluation"] for row in dry.members] == ["one.parquet", "two.parquet"]
    found = ensemble(EnsembleRequest(files, weights=(3, 1), output=Path("both.json")))
    assert isinstance(found, Combined) and found.result
    assert [one["weight"] for one in found.result["members"]] == [0.75, 0.25]
    assert json.loads(Path("both.json").read_text()) == found.to_json() and Path("both.parquet").exists()
    with pytest.raises(DataError, match="no run or evaluation nowhere"):
        ensemble(EnsembleRequest([Path("nowhere"), *files]))


def test_the_members_of_an_ensembles_recipe(root: Path) -> None:
    Path("two.yaml").write_text("protocol: single\nmembers: {a: {}, b: {train: {seed: 1}}}\n", encoding="utf-8")
    settings = [*TINY, "model.num_classes=3", f"data.root={root}"]
    dry = ensemble(EnsembleRequest([Path("two.yaml")], settings, dry_run=True))
    assert isinstance(dry, Planned) and dry.recipe == "two.yaml"
    assert [(row["member"], row["seed"], row["to_do"]) for row in dry.members] == [
        ("a", 0, "to be trained"),
        ("b", 1, "to be trained"),
    ]
    with pytest.raises(CheckpointError, match="no evaluation by single yet"):
        ensemble(EnsembleRequest([Path("two.yaml")], settings, saved_only=True))


def test_benches_without_ranks(root: Path) -> None:
    made = bench_data.photographs(bench_data.BenchPhotographsRequest(root, Path("made"), 2, size=(20, 16)))
    assert made["images"] == 2 and made["bytes"] == sum(file.stat().st_size for file in Path("made").iterdir())
    with pytest.raises(RecipeError, match="no way 'fast'"):
        bench_steps.step(bench_steps.BenchStepRequest(ways=["fast"]))
    with pytest.raises(RecipeError, match="nobody to sum with"):
        bench_ranks.allreduce(bench_ranks.BenchAllreduceRequest())


@pytest.mark.slow
def test_a_bench_with_ranks_gives_their_result_and_their_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ranks, by DeepSpeed's launcher; what they print is not this process's, and goes nowhere."""
    for name in ("DS_ACCELERATOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    found = bench_ranks.allreduce(bench_ranks.BenchAllreduceRequest(None, 2, 1, 1, Path("sums.json")))
    assert found and found["ranks"] == 2 and found["figures"][0]["name"] == "4 KiB"
    assert json.loads(Path("sums.json").read_text()) == found
    graphs = bench_steps.BenchStepRequest("quickstart", TINY, 2, cpu_ranks=1, ways=["network/cuda-graphs"])
    with pytest.raises(RanksEndedError) as failed:
        bench_steps.step(graphs)
    assert failed.value.exit_code == 2


def test_the_lines_in_the_docs(capfd: pytest.CaptureFixture[str]) -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## From Python")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(code, found)
    assert capfd.readouterr().out == "".join(one.text or "" for one in submit(found["job"])) + "\n"
    assert found["fastest"].gpus == 20
