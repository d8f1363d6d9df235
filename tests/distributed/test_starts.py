"""Started by others: torchrun, srun by hand, DeepSpeed's own command over two hosts. Real processes, and never mpi4py."""

import contextlib
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.commands import COMMAND, TINY, environment, inceptionctl, rows, sets
from tests.data.conftest import two_classes

STEPS = 12
BIN = Path(sys.executable).parent
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
# Should anything ask for it, this one is found, and says so.
MPI = 'raise SystemExit("mpi4py was asked for")\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_classes(tmp_path_factory.mktemp("data"))


def training(data: Path, steps: int = STEPS) -> list[str]:
    settings = (
        *TINY,
        "model.num_classes=2",
        "train.epochs=1000",
        f"train.max_steps={steps}",
        "checkpoint.every_epochs=null",
        "checkpoint.every_steps=4",
        "evaluate.every_epochs=null",
        "schedule.base_lr=0.01",
        "data.read_timeout_seconds=30",
        "train.collective_timeout_seconds=90",  # what a failed test leaves behind ends by itself
        f"data.root={data}",
    )
    return ["train", "inception_v4", *sets(*settings), "--output", "run"]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, by our own command."""
    folder = tmp_path_factory.mktemp("whole")
    result = inceptionctl(*training(data), "--cpu-ranks", "2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def equal(run: Path, whole: Path) -> None:
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    for name in FILES:
        ours, theirs = (path / "checkpoints" / f"step-{STEPS:08d}" / name for path in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name


def start(command: Sequence[str | Path], folder: Path, **variables: str) -> subprocess.Popen[str]:
    (folder / "mpi4py.py").write_text(MPI)
    given = environment() | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [*map(str, command)], cwd=folder, env=given | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert "mpi4py" not in said
    return process.returncode, said


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not any(row["step"] >= step for row in rows(run)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=60)[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_and_its_sigterm(data: Path, whole: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*words, "-m", "inceptionctl", *training(data)], tmp_path)
    wait_for_step(tmp_path / "run", 3, process)
    ranks = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert code != 0 and "stopped by a signal after step" in said, said
    assert "error: " not in said and not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    assert 3 <= rows(tmp_path / "run")[-1]["step"] < STEPS
    code, said = end(start([*words, "-m", "inceptionctl", *training(data)], tmp_path))
    assert code == 0 and "resuming from run/checkpoints/step-" in said, said
    equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_srun_by_hand(slurm: dict[str, str], data: Path, whole: Path, tmp_path: Path) -> None:
    srun = ["srun", "--job-name=by-hand", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", *COMMAND, *training(data)]
    process = start(srun, tmp_path, **slurm)
    wait_for_step(tmp_path / "run", 3, process)
    subprocess.run(["scancel", "--signal=TERM", "--name=by-hand"], env=os.environ | slurm, check=True)
    code, said = end(process)
    assert code == 75 and "stopped by a signal after step" in said, said
    code, said = end(start(srun, tmp_path, **slurm))
    assert code == 0 and "resuming from run/checkpoints/step-" in said, said
    equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_shell_of_srun_starts_ranks_of_its_own(slurm: dict[str, str], data: Path, tmp_path: Path) -> None:
    """`srun --pty bash`, whose other three tasks have ended: they never come."""
    inside = shlex.join(["inceptionctl", *training(data, steps=1), "--cpu-ranks", "1"])
    script = f"{inside}; echo first $?; SLURM_STEP_NUM_TASKS=1 {inside}; echo then $?; exit\n"
    ours, theirs = pty.openpty()
    given = environment() | slurm | {"DS_ACCELERATOR": "cpu", "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb"}
    shell = ["srun", "--overcommit", "--nodes=1", "--ntasks=4", "--pty", "bash", "--norc"]
    process = subprocess.Popen(
        shell, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=given, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, script.encode())
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 65536):
            said += part
    process.wait(60)
    text = said.decode(errors="replace")
    assert "--cpu-ranks starts ranks, and this is one already: task 0 of a Slurm step of 4 tasks" in text, text
    assert "first 2" in text and "then 0" in text, text
    assert len(rows(tmp_path / "run")) == 1


@dataclass(frozen=True)
class Hosts:
    """Two network namespaces with an address, and a server of ssh, each."""

    first: str
    addresses: tuple[str, str]
    ssh_config: Path


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    missing = [name for name in ("ip", "ssh", "ssh-keygen", "pdsh", "/usr/sbin/sshd") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no hosts to be made: {', '.join(missing)} missing (Debian: iproute2 openssh-server openssh-client pdsh)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    folder, tag, net = tmp_path / "ssh", f"ic{os.getpid() % 100000}", f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
    addresses = (f"{net}.1", f"{net}.2")
    folder.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    server = f"HostKey {folder}/key\nAuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPidFile none\nUsePAM no\n"
    (folder / "server").write_text(server)
    client = f"IdentityFile {folder}/key\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    (folder / "client").write_text(client)
    with contextlib.ExitStack() as undo:
        tried = subprocess.run(["ip", "netns", "add", f"{tag}a"], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")
        undo.callback(ip, f"netns del {tag}a")
        ip(f"netns add {tag}b")
        undo.callback(ip, f"netns del {tag}b")
        ip(f"link add eth0 netns {tag}a type veth peer name eth0 netns {tag}b")
        for name, address in zip((f"{tag}a", f"{tag}b"), addresses, strict=True):
            ip(f"-n {name} addr add {address}/24 dev eth0")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set eth0 up")
            command = ["ip", "netns", "exec", name, "/usr/sbin/sshd", "-D", "-f", str(folder / "server")]
            daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            undo.callback(daemon.wait)
            undo.callback(daemon.terminate)
        yield Hosts(f"{tag}a", addresses, folder / "client")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@pytest.mark.slow
def test_deepspeed_s_command_over_two_hosts(hosts: Hosts, data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("".join(f"{address} slots=1\n" for address in hosts.addresses))
    # Here each host's own name stands for a loopback address, as on any Debian: gloo alone would not find the other.
    (tmp_path / ".deepspeed_env").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\n")
    words = f"ip netns exec {hosts.first} deepspeed --hostfile hostfile --master_addr {hosts.addresses[0]} --no_ssh_check"
    words += " --no_local_rank --no_python"
    command = [*words.split(), str(BIN / "inceptionctl"), *training(data)]
    code, said = end(start(command, tmp_path, PDSH_SSH_ARGS_APPEND=f"-F {hosts.ssh_config}"))
    assert code == 0 and "batch 2 ranks x" in said, said
    for address in hosts.addresses:
        assert f"{address}: " in said
    equal(tmp_path / "run", whole)
