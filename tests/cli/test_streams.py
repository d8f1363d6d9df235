"""No stream and no missing home ends a command in a traceback: full disks, gone readers, closed descriptors, ASCII, unknown users."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inceptionctl import home, streams
from inceptionctl.data.sources import index_cache
from inceptionctl.errors import EnvironmentFault
from tests.commands import COMMAND, TINY, environment, sets

WORDS = " ".join(COMMAND)


def shell(script: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A bash script in which $I is the command."""
    told = environment() | {"I": WORDS} | variables
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=cwd, env=told, check=False, timeout=600)


def test_a_full_disk_is_said_with_code_4(tmp_path: Path) -> None:
    verbs = ("--help", "train --help", "models list", "runs list --json")
    script = "\n".join(f"PYTHONUNBUFFERED={(k % 2) or ''} $I {verb} >/dev/full; echo $?" for k, verb in enumerate(verbs))
    result = shell(script, tmp_path)
    assert result.stdout.split() == ["4"] * len(verbs), result.stdout + result.stderr
    assert result.stderr.count("error: cannot write standard output: No space left on device") == len(verbs)
    assert result.stderr.count("hint: free some space") == len(verbs)
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_gone_readers_and_closed_descriptors_say_nothing(tmp_path: Path) -> None:
    script = """
        $I recipes show inception_v4 | true; echo ${PIPESTATUS[0]}
        $I models list --json >&-; echo $?
        $I train nowhere 2>/dev/full; echo $?
        $I train nowhere 2>&- ; echo $?
    """
    result = shell(script, tmp_path)
    assert result.stdout.split() == [str(streams.READER_GONE), "0", "2", "2"], result.stdout + result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_what_a_terminal_cannot_spell_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "höhe.yaml").write_text("data: {root: dätä}\n", encoding="utf-8")
    script = """
        $I recipes show höhe.yaml --json > told.json
        $I models list | head -3; $I recipes check $'caf\\xe9.yaml'
    """
    result = shell(script, tmp_path, PYTHONIOENCODING="ascii")
    assert "-+-" in result.stdout and "\\u2501" not in result.stdout
    assert r"no recipe 'caf\xe9.yaml'" in result.stderr, result.stderr
    assert json.loads((tmp_path / "told.json").read_text(encoding="ascii"))["data"]["root"] == "dätä"
    assert "Traceback" not in result.stderr


def test_messages_that_cannot_be_written_are_lost_and_later_ones_are_not(tmp_path: Path) -> None:
    """A training does not end for its messages, and says the next ones when there is room."""
    code = """
import os, sys
from inceptionctl import console, streams
streams.prepare()
there, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 2)
console.say("lost")
console.warn("lost", "lost")
os.dup2(there, 2)
console.say("told")
"""
    for unbuffered in ("", "1"):
        told = {**environment(), "PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told, check=False)
        assert (result.returncode, result.stderr) == (0, "told\n")


def results_in(path: Path) -> streams._Stream:
    codecs.register_error(streams._ESCAPING, streams._escaped)
    return streams._Results.instead_of(path.open("w", encoding="ascii"))


def test_a_result_fails_once_and_what_is_held_back_fails_no_more() -> None:
    stream = results_in(Path("/dev/full"))
    stream.write("a result")
    with pytest.raises(EnvironmentFault, match="cannot write standard output: No space left on device"):
        stream.flush()
    stream.write("more")
    stream.close()


def test_every_name_can_be_spelt(tmp_path: Path) -> None:
    stream = results_in(tmp_path / "told")
    stream.write(os.fsdecode("é日 ".encode() + b"\xff"))
    stream.close()
    assert (tmp_path / "told").read_bytes() == rb"\xe9\u65e5 \xff"


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """What starts a command in a user namespace whose user /etc/passwd does not know, with an empty environment."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not here")
    user = "unshare --user --map-user=54321"
    if subprocess.run([*user.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not permitted here")
    return f"{user} env -i PATH=$PATH TMPDIR={tmp_path} OMP_NUM_THREADS=1"


@pytest.mark.slow
def test_every_stage_works_for_a_user_without_home_and_name(tmp_path: Path, root: Path, bare: str) -> None:
    """The last ones in one process, which imports what looks for a home but once."""
    small = " ".join(sets(*TINY, f"data.root={root}", "model.num_classes=3", "train.max_steps=1"))
    image = next((root / "val").rglob("*.jpg"))
    later = ("evaluate r", "export r --format onnx", f"predict r/export/model.onnx {image}", "runs show r --plot r.png")
    (tmp_path / "later.py").write_text(f"""
import sys
from inceptionctl.cli import main
for words in {later!r}:
    sys.argv = ["inceptionctl", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
""")
    script = f"""
        {bare} $I doctor &&
        {bare} $I train quickstart {small} --cpu-ranks 1 --output r &&
        {bare} {sys.executable} later.py
    """
    result = shell(script, tmp_path)
    assert result.returncode == 0 and "wrote r.png" in result.stderr, result.stdout + result.stderr
    assert "deepspeed runs" in result.stdout and (tmp_path / "inceptionctl-home-54321").is_dir()
    assert "internal error" not in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_a_user_without_home_and_name(tmp_path: Path, root: Path, bare: str) -> None:
    script = f"""
        {bare} $I train quickstart --set data.root={root} --set model.num_classes=3 --dry-run --cpu-ranks 1
        {bare} {sys.executable} -c 'from inceptionctl import home; home.prepare(); import getpass; print(getpass.getuser())'
    """
    result = shell(script, tmp_path)
    assert "train images" in result.stdout and "uid54321" in result.stdout, result.stdout + result.stderr
    assert "internal error" not in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "inceptionctl-home-54321").is_dir()


def test_home_is_given_only_to_who_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    home.prepare()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "somebody")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    home.prepare()
    made = tmp_path / f"inceptionctl-home-{os.getuid()}"
    assert os.environ["HOME"] == str(made) and made.stat().st_mode & 0o777 == 0o700
    made.rmdir()
    made.symlink_to(tmp_path)  # somebody else's trap
    home.prepare()
    assert os.environ["HOME"] != str(made)


def test_lists_are_kept_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert list(index_cache.places(tmp_path, "train.index")) == [tmp_path / ".inceptionctl/train.index"]
