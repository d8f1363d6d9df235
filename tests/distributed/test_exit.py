"""Processes that have run gloo's threads end without taking the interpreter down, where such a thread would abort them."""

import json
import subprocess
import sys
from pathlib import Path

from inceptionctl.distributed.local import free_port
from tests.commands import environment

# Python deletes what is left of a module when it takes the interpreter down.
WITNESS = """
import sys
class Witness:
    def __del__(self, write=__import__("os").write):
        write(2, b"interpreter taken down")
witness = Witness()
"""

LEAVE = """
import atexit, threading, time
from inceptionctl.distributed.exit import leave
atexit.register(lambda: print("handler"))
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
threading.Thread(target=lambda: time.sleep(600), daemon=True).start()
leave(3)
"""

# As torch.compile leaves one.
EXECUTOR = """
from concurrent.futures import ThreadPoolExecutor
from inceptionctl.distributed.exit import leave
executor = ThreadPoolExecutor(1)
executor.submit(print, "done").result()
leave(3)
"""

RANK = """
from inceptionctl.cli import main
main()
"""


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITNESS + script, *arguments],
        capture_output=True,
        text=True,
        env=environment() | variables,
        timeout=120,
        check=False,
    )


def test_the_witness_speaks_where_the_interpreter_ends() -> None:
    assert run("sys.exit(3)").stderr == "interpreter taken down"


def test_leaving_awaits_threads_and_runs_handlers() -> None:
    ended = run(LEAVE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "thread\nhandler\n", "")


def test_leaving_ends_an_executor_that_nobody_has_shut_down() -> None:
    ended = run(EXECUTOR)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "done\n", "")


def test_a_rank_leaves_with_its_exit_code(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["train", "inception_v4", "--set", f"data.root={tmp_path}", "--output", str(tmp_path / "run")]
    ended = run(RANK, *words, **world, DS_ACCELERATOR="cpu")
    assert ended.returncode == 3 and "error: " in ended.stderr, ended.stderr
    assert "interpreter taken down" not in ended.stderr


def test_the_trial_of_deepspeed_leaves() -> None:
    ended = run("from inceptionctl.smoke_tests import _main\n_main('deepspeed')", DS_ACCELERATOR="cpu")
    assert ended.returncode == 0 and "found" in json.loads(ended.stdout.splitlines()[-1])
    assert "interpreter taken down" not in ended.stderr
