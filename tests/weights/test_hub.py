"""Published weights by the real client from a server on this machine: fetched once, whole or not at all, every failure in words."""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from inceptionctl.errors import CheckpointError, EnvironmentFault, RecipeError
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.models import build_model
from inceptionctl.published import parse, path_of
from inceptionctl.run import Run
from inceptionctl.weights.counterparts import COUNTERPARTS
from inceptionctl.weights.hub import fetch
from inceptionctl.weights.match import their_tensor
from tests.commands import inceptionctl
from tests.data.conftest import fill
from tests.weights.hub_server import Hub, serving

MODEL = "resnet_18"
NAME = "timm/resnet18.test"
IMAGES = {
    **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 160, 160]},
    **{"crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center"},
}
CONFIG = {"architecture": "resnet18", "num_classes": 6, "label_names": list("abcdef"), "pretrained_cfg": IMAGES}


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(0)
    names = COUNTERPARTS["timm"][MODEL].names()
    state = build_model(MODEL, num_classes=6).state_dict()
    return save({str(their_tensor(names, name, "torch")): value for name, value in state.items()})


@pytest.fixture
def hub(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With NAME on it; the client of this process uses it, and caches in a folder of its own."""
    files = {f"{NAME}/model.safetensors": weights, f"{NAME}/config.json": json.dumps(CONFIG).encode()}
    with serving(Hub(files=files)) as hub:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name, value in {"ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hf/hub")}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        yield hub


def got(name: str, model: str | None = None) -> Path:
    published = parse(name)
    assert published is not None
    return fetch(published, model, lambda _: None)


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "hf/inceptionctl").glob("[!.]*"))


def test_a_repository_of_timm_becomes_a_checkpoint_with_what_it_expects(hub: Hub, tmp_path: Path) -> None:
    folder = got(NAME)
    assert folder == path_of(NAME, MODEL) == tmp_path / "hf/inceptionctl/timm-resnet18.test--resnet_18"
    trained = load_trained(folder, "ema", torch.device("cpu"))
    assert trained.classes == tuple("abcdef")
    recipe = trained.recipe
    assert (recipe.model.name, recipe.model.num_classes, recipe.model.input_px) == (MODEL, 6, 160)
    assert (recipe.data.mean, recipe.data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    section = recipe.evaluate
    assert (section.central_fraction, section.interpolation, section.keep_aspect) == (0.95, "bicubic", True)
    hub.asked.clear()
    assert got(NAME, MODEL) == folder
    assert hub.asked == []


def test_a_revision_has_a_folder_of_its_own(hub: Hub) -> None:
    assert got(f"{NAME}@v1").name == "timm-resnet18.test--v1--resnet_18"
    assert got(f"hf://{NAME}@{hub.commit}").name == f"timm-resnet18.test--{hub.commit}--resnet_18"


def fetched_by_another(name: str, tmp_path: Path) -> None:
    got(name, MODEL)


def test_processes_of_a_node_fetch_once(hub: Hub, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=fetched_by_another, args=(NAME, tmp_path)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0] * 4
    assert hub.fetched("model.safetensors") == 1
    assert kept(tmp_path) == ["timm-resnet18.test--resnet_18"]


def test_a_url_is_compared_with_its_hash(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    hub.files["files/net.safetensors"] = weights
    url, sha256 = f"{hub.endpoint}/files/net.safetensors", hashlib.sha256(weights).hexdigest()
    folder = got(f"{url}#sha256={sha256}", MODEL)
    assert folder.name == f"net--{sha256[:12]}--resnet_18"
    load_trained(folder, "ema", torch.device("cpu"))
    with pytest.raises(CheckpointError, match="not the file with this sha256"):
        got(f"{url}#sha256={'0' * 64}", MODEL)
    with pytest.raises(EnvironmentFault, match="404"):
        got(f"{url}.gz#sha256={sha256}", MODEL)
    with pytest.raises(CheckpointError, match="no file tells which network"):
        got(f"{url}#sha256={sha256}")
    assert kept(tmp_path) == [folder.name]


@pytest.mark.parametrize(
    ("change", "fault", "words"),
    [
        ({"cuts": True}, EnvironmentFault, r"cannot fetch model.safetensors of timm/resnet18.test: .*500"),
        ({"spoils": True}, CheckpointError, "is damaged: its sha256 is another one"),
        ({"gated": {NAME}}, CheckpointError, "is gated"),
        ({"files": {}}, CheckpointError, "there is no timm/resnet18.test on http://127.0.0.1:.*private"),
        ({"files": {f"{NAME}/README.md": b"x"}}, CheckpointError, "has no config.json"),
        ({"files": {f"{NAME}/config.json": json.dumps(CONFIG).encode()}}, CheckpointError, "has no model.safetensors"),
        ({"files": {f"{NAME}/config.json": b"["}}, CheckpointError, "cannot read .*config.json"),
        ({"files": {f"{NAME}/config.json": b'{"architecture": "vit"}'}}, CheckpointError, "of vit, which is none of ours"),
    ],
    ids=["cut", "spoilt", "gated", "missing", "no config", "no weights", "no json", "another network"],
)
def test_a_failure_is_worded_and_nothing_half_is_kept(
    hub: Hub, tmp_path: Path, weights: bytes, change: dict[str, Any], fault: type[Exception], words: str
) -> None:
    whole = dict(hub.files)
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises(fault, match=words):
        got(NAME)
    assert kept(tmp_path) == []
    hub.files, hub.cuts, hub.spoils = whole, False, False
    hub.gated.clear()
    assert got(NAME).is_dir()


def test_without_a_network_it_is_said_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="has no revision v9"):
        got(f"{NAME}@v9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE is set") as fault:
        got(NAME)
    assert "inceptionctl weights fetch timm/resnet18.test" in str(fault.value.hint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    got(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert got(NAME, MODEL).is_dir()


def test_retries_are_not_listed(hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """hub's own `Retrying in 1s [Retry 1/5]`, twelve lines before the one that counts."""
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(constants, name, str(getattr(constants, name)).replace(hub.endpoint, "http://127.0.0.1:9"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    published, said = parse(NAME), list[str]()
    assert published is not None
    with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1:9 cannot be reached"):
        fetch(published, None, said.append)
    assert said == [f"looking up {NAME} on http://127.0.0.1:9"]
    assert "Retry" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/a/b", "names no repository"),
        ("hf://justaname", "names no repository"),
        ("https://x.org/a.safetensors", "has no sha256"),
        ("https://x.org/a.safetensors#sha256=12", "has no sha256"),
        (f"https://x.org/a#sha256={'0' * 64}&form=keras", "form=keras is no form"),
    ],
)
def test_a_wrong_name_is_refused(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse(name)


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("runs/mine") is None and parse("/x/timm/net") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm/net").mkdir(parents=True)
    assert parse("timm/net") is None


def test_evaluate_takes_a_name(hub: Hub, tmp_path: Path) -> None:
    for seed, name in enumerate("abcdef"):
        fill(tmp_path / "data/val" / name, 2, seed=seed)
    variables = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint}
    words = ("evaluate", NAME, "--data", tmp_path / "data", "--protocol", "10crop", "--output", tmp_path / "row.json", "--json")
    done = inceptionctl(*words, new_process=True, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_images"] == 12 and f"fetching {NAME}" in done.stderr
    done = inceptionctl("predict", NAME, tmp_path / "data/val/a", "--json", new_process=True, **variables)
    assert done.returncode == 0 and len(json.loads(done.stdout)) > 0, done.stderr


@pytest.mark.slow
def test_a_training_fetches_its_first_weights_and_takes_over_what_they_expect(hub: Hub, tmp_path: Path) -> None:
    fill(tmp_path / "data/train/a", 8, seed=0)
    fill(tmp_path / "data/train/b", 8, seed=1)
    shutil.copytree(tmp_path / "data/train", tmp_path / "data/val")
    (tmp_path / "mine.yaml").write_text(
        f"model: {{name: {MODEL}, num_classes: 2, init_from: {NAME}}}\n"
        "train: {epochs: 1, max_steps: 2, global_batch_size: 8, micro_batch_size: 8}\n"
        f"data: {{root: {tmp_path / 'data'}}}\n"
    )
    variables = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint}
    run, words = tmp_path / "run", ("train", tmp_path / "mine.yaml", "--cpu-ranks", "2", "--output", tmp_path / "run")
    done = inceptionctl(*words, "--set", "model.input_px=96", new_process=True, **variables)
    assert done.returncode == 0, done.stderr
    assert f"fetching {NAME}" in done.stderr and "classifier" in done.stderr
    assert hub.fetched("model.safetensors") == 1
    recipe = Run(run).recipe()
    assert recipe.model.init_from == NAME
    assert (recipe.data.mean, recipe.evaluate.central_fraction) == ((0.485, 0.456, 0.406), 0.95)
    hub.endpoint = "gone"
    shutil.rmtree(tmp_path / "hf")
    done = inceptionctl(
        *words, "--set", "model.input_px=96", "--set", "train.epochs=2", "--set", "train.max_steps=4", **variables
    )
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
