"""A real Slurm of two virtual nodes, for one file of tests after the other."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm-cluster"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Variables that make Slurm's commands speak to the cluster."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} missing (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("a Slurm of virtual nodes needs root")
    folder = Path(f"/tmp/slurm-{os.getpid()}")  # short: paths of sockets end at about 108 characters
    # Another worker may be at a file that has its own: the nodes' addresses are the same.
    lock = Path("/tmp/inceptionctl-slurm-tests.lock").open("w")  # noqa: SIM115  (held until the end)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
        if started.returncode:
            logs = {file.name: file.read_text(errors="replace")[-2000:] for file in folder.glob("log/*")}
            pytest.fail(f"slurm-cluster start: {started.stderr}\n{logs}")
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False)
        lock.close()
