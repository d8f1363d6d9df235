"""Ranks read from the environment, and what ranks share."""

from pathlib import Path

import pytest

from inceptionctl.distributed.local import check_port, choose_ranks, free_port
from inceptionctl.distributed.signals import PIPE_OF_COMMAND
from inceptionctl.distributed.world import (
    World,
    expand_task_counts,
    first_host,
    refuse_own_ranks,
    waits_in_a_shell,
    world_from_environment,
)
from inceptionctl.errors import EnvironmentFault, RecipeError
from tests.commands import environment
from tests.forked import run_ranks

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "n0",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
}


def test_an_ordinary_shell_is_no_rank() -> None:
    assert world_from_environment({}) is None
    # A batch script and a step of one task are ordinary processes too: they start the ranks of their machine.
    assert world_from_environment({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None
    assert world_from_environment({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_torchrun_and_srun_make_ranks() -> None:
    assert world_from_environment(TORCHRUN) == World(5, 8, 1, 4, "n0", 29500)
    assert world_from_environment(SRUN) == World(4, 7, 0, 3, "gpu03", 14711)


@pytest.mark.parametrize(("gpus", "cpu_ranks", "option"), [(2, None, "--gpus"), (None, 1, "--cpu-ranks")])
def test_one_rank_starts_no_others(gpus: int | None, cpu_ranks: int | None, option: str) -> None:
    for given, words in ((SRUN, "task 4 of a Slurm step of 7 tasks"), (TORCHRUN, "RANK is 5 and WORLD_SIZE 8")):
        with pytest.raises(RecipeError, match=f"{option} starts ranks, .*{words}") as caught:
            refuse_own_ranks(world_from_environment(given), gpus, cpu_ranks, given)
        assert f"leave {option} out" in str(caught.value.hint)
        refuse_own_ranks(world_from_environment(given), None, None, given)
        # Our own ranks are started with the words of their command.
        refuse_own_ranks(world_from_environment(given), gpus, cpu_ranks, {**given, PIPE_OF_COMMAND: "1"})
    alone = {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}
    refuse_own_ranks(world_from_environment(alone), gpus, cpu_ranks, alone)


def test_a_shell_of_srun_is_told_what_it_waits_for() -> None:
    shell = {**SRUN, "SLURM_PTY_PORT": "35363"}
    told = waits_in_a_shell(world_from_environment(shell), shell)
    assert told and "task 4 of an interactive Slurm step of 7" in told[0] and "SLURM_STEP_NUM_TASKS=1" in told[1]
    for given in (SRUN, {**shell, "SLURM_STEP_NUM_TASKS": "1"}, {**shell, **TORCHRUN}):
        assert waits_in_a_shell(world_from_environment(given), given) is None


@pytest.mark.parametrize(("missing", "value"), [("MASTER_ADDR", None), ("LOCAL_RANK", None), ("RANK", "x"), ("RANK", "8")])
def test_an_incomplete_environment_is_worded(missing: str, value: str | None) -> None:
    broken = {key: text for key, text in TORCHRUN.items() if key != missing} | ({missing: value} if value else {})
    with pytest.raises(EnvironmentFault, match=missing):
        world_from_environment(broken)


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu[07-09,12],cpu1", "gpu07"), ("node1", "node1"), ("a-b-[1,3]-x", "a-b-1-x"), ("n1,n2", "n1")]
)
def test_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_task_counts() -> None:
    assert expand_task_counts("4(x2),3") == [4, 4, 3]


def test_cpu_ranks_and_missing_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inceptionctl.distributed.local.visible_gpus", lambda: ())
    assert choose_ranks(None, None).size == 1 and choose_ranks(None, 3).size == 3
    with pytest.raises(EnvironmentFault, match="--gpus 2: no GPU here"):
        choose_ranks(2, None)
    monkeypatch.setattr("inceptionctl.distributed.local.visible_gpus", lambda: ("2", "5"))
    assert choose_ranks(None, None).devices == ("2", "5") and choose_ranks(1, None).devices == ("2",)
    with pytest.raises(EnvironmentFault, match="only 2 GPUs here"):
        choose_ranks(3, None)


def test_a_port_in_use_is_noticed() -> None:
    import socket

    port = free_port()
    check_port(port)
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        with pytest.raises(EnvironmentFault, match=f"port {port} cannot be used"):
            check_port(port)


RANK = """
import sys
import time
from pathlib import Path
import torch
from torch import nn
from inceptionctl.errors import DataError
from inceptionctl.distributed.exit import leave
from inceptionctl.distributed.world import world_from_environment
from inceptionctl.train.batch import plan_batch
from inceptionctl.train.step import SharedStatistics
from inceptionctl.train.engine import Clipping
from inceptionctl.distributed import process_group as distributed
from inceptionctl.train.engine import Engine, deepspeed_config

torch.set_num_threads(1)
world, device = world_from_environment(), torch.device("cpu")
# Rank 1 comes to the process group while rank 0 is still where they met: the server of that must live on.
distributed.connect(world, device, 77.0, lambda _: time.sleep(4 * (world.rank == 0)))
torch.manual_seed(0)
model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.5), nn.Linear(3, 1, bias=False))
images = torch.arange(24.0).reshape(8, 3) % 7
config = deepspeed_config(plan_batch(8, world.size, 2))
optimizer = torch.optim.SGD(model.parameters(), 1.0)
engine = Engine(model, optimizer, config, clipping=Clipping(0.01), channels_last=False)
statistics = SharedStatistics(engine.model, world.size)
share = images[world.rank * 4 : world.rank * 4 + 4]
engine.model.train()
for micro in (share[:2], share[2:]):
    engine.backward(engine.forward(micro).mean())
    engine.step()
own = engine.model[0].running_mean.clone()
statistics.average()
shared, weight = engine.model[0].running_mean, engine.model[1].weight.detach()
torch.save({"own": own, "shared": shared, "weight": weight, "norm": engine.grad_norm}, f"{sys.argv[1]}/{world.rank}.pt")
print(distributed.on_rank_zero(world, device, lambda: {"from": world.rank}))
groups = [engine._engine.data_parallel_group, torch.distributed.group.WORLD]
print("waits", [group._get_backend(device).options._timeout.total_seconds() for group in groups])

def refuse():
    raise DataError("no images")

try:
    distributed.on_rank_zero(world, device, refuse)
except Exception as error:
    print(type(error).__name__, error.exit_code)
distributed.disconnect()
leave(0)
"""


def test_two_ranks_share_gradients_statistics_and_errors(tmp_path: Path) -> None:
    import torch

    ranks = run_ranks(RANK, 2, tmp_path, environment=environment())
    outputs = [(rank.stdout, rank.stderr) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    zero, one = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert not torch.equal(zero["own"], one["own"])
    assert torch.allclose(zero["shared"], (zero["own"] + one["own"]) / 2) and torch.equal(zero["shared"], one["shared"])
    assert torch.equal(zero["weight"], one["weight"])
    # The gradient's norm, before clipping, is the mean's over both ranks; the update is clipped to 0.01.
    assert zero["norm"].item() == pytest.approx(one["norm"].item()) and zero["norm"].item() > 0.01
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1, bias=False))[1].weight.detach()
    assert 0 < (zero["weight"] - start).norm().item() <= 0.0101
    # DeepSpeed's own group, in which gradients go round, waits for as long as ours.
    assert all("waits [77.0, 77.0]" in output for output, _ in outputs)
    assert "{'from': 0}" in outputs[1][0] and "DataError 3" in outputs[0][0] and "RelayedError 3" in outputs[1][0]


def test_a_gpu_that_torch_does_not_find_is_no_silent_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from inceptionctl.distributed.session import claim_machine

    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    world, threads = World(0, 1, 0, 1, "127.0.0.1", 29500), torch.get_num_threads()
    assert claim_machine(world).device.type == "cpu" and capsys.readouterr().err == ""
    monkeypatch.setattr("inceptionctl.distributed.local.DRIVER_NODES", (str(tmp_path),))
    assert claim_machine(world).device.type == "cpu"
    assert "torch finds no GPU" in capsys.readouterr().err
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert claim_machine(world).device.type == "cpu" and capsys.readouterr().err == ""
    torch.set_num_threads(threads)
