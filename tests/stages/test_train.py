"""Training as a call from Python, without the command line."""

from pathlib import Path

import pytest

from inceptionctl.errors import RanksEndedError, RecipeError
from inceptionctl.run import Run
from inceptionctl.stages.train import TrainRequest, plan, train
from tests.commands import TINY, rows


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request_of(root: Path, *settings: str) -> TrainRequest:
    common = (*TINY, "model.num_classes=3", f"data.root={root}", "evaluate.every_epochs=null", "train.max_steps=2")
    return TrainRequest("inception_v4", (*common, *settings), cpu_ranks=1, output=Path("run"))


def test_a_request_is_trained_and_gives_its_run(root: Path, elsewhere: Path) -> None:
    run = train(request_of(root))
    assert run == Run(Path("run")) and [row["step"] for row in rows(elsewhere / "run")] == [1, 2]


def test_what_the_ranks_end_with_is_raised(root: Path, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RanksEndedError, match="ended with code 6") as raised:
        train(request_of(root, "schedule.base_lr=1e30", "schedule.warmup_epochs=0", "optim.clip_agc=0", "train.max_steps=8"))
    assert raised.value.exit_code == 6 and "error: " in capfd.readouterr().err


def test_what_keeps_it_from_starting_is_raised_before(root: Path, elsewhere: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.epochs"):
        train(request_of(root, "train.epochs=none at all"))
    assert not Path("run").exists()


def test_a_plan_writes_nothing(root: Path, elsewhere: Path) -> None:
    assert plan(request_of(root))["steps"] == 2
    assert not Path("run").exists()
