"""A model goes to a Hub and comes back, and every command takes it from there."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxage.cli import main
from jaxage.commands.evaluate import EvaluateOptions, evaluate
from jaxage.commands.frame import frame
from jaxage.commands.predict import predict
from jaxage.commands.push import PushOptions, push
from jaxage.metrics import METRICS
from jaxage.report.hub_card import hub_metadata, hub_text, parse_license
from jaxage.training.export import ModelConfig, export_model, load_model
from jaxage.types import UserError
from jaxage.utils.files import write_json
from tests.faces import write_faces
from tests.hub_server import TOKEN, Hub, hub_server

REPO = "alice/ages"
pytestmark = [
    pytest.mark.usefixtures("own_cache", "tiny"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's use of httpx
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data"), n=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of the tiny network leaves, with a pickle beside its model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = ModelConfig("tiny", "l1", 32, 40.0, 20.0, flip=True)
    export_model(folder / "model", config.model().init(jax.random.key(0)), config, "# tiny\n\nNot for gating.\n")
    (folder / "model" / "weights.pkl").write_bytes(b"\x80\x04")
    test = {"n": 4608} | dict.fromkeys(METRICS, 0.5) | {f"{name}_ci95": [0.25, 0.75] for name in METRICS}
    report = {"arch": "tiny", "weights": {"tag": "random"}, "data": {"name": "faces"}, "demonstration": False}
    write_json(folder / "report.json", report | {"test": test | {"plcc": None, "plcc_ci95": None}})
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def pushed_text(hub: Hub, name: str) -> str:
    repo = hub.repos[REPO]
    return repo.commits[repo.refs["main"]][name].decode()


def test_what_was_pushed_predicts_the_same(
    hub: Hub, run: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(run), REPO, "--license", "cc-by-nc-4.0"])
    commit = hub.repos[REPO].refs["main"]
    assert capsys.readouterr().out == f"{hub.url}/{REPO} (private): use it as hf://{REPO}@{commit}\n"
    assert set(hub.repos[REPO].commits[commit]) == {".gitattributes", "README.md", "model.json", "model.safetensors"}
    assert len(hub.repos[REPO].commits) == 2
    variables, config = load_model(f"hf://{REPO}@{commit}")
    expected, expected_config = load_model(run)
    assert config == expected_config
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    images = sorted((faces.parent / "faces").iterdir())[:3]
    ages = [[face.estimate for face in photo.faces] for photo in predict(f"hf://{REPO}", images, "crop")]
    assert ages == [[face.estimate for face in photo.faces] for photo in predict(run, images, "crop")]
    main(["predict", f"hf://{REPO}@main", str(images[0]), "--faces", "crop"])
    there = capsys.readouterr().out
    main(["predict", str(run), str(images[0]), "--faces", "crop"])
    assert there == capsys.readouterr().out


def test_a_model_of_the_hub_is_scored_on_named_data_only(hub: Hub, run: Path, faces: Path) -> None:
    push(run, REPO, PushOptions("mit"), log=lambda _: None)
    scores = evaluate(f"hf://{REPO}", EvaluateOptions(data=faces))
    assert scores["n"] == 30
    assert scores["mae"] == pytest.approx(evaluate(run / "model", EvaluateOptions(data=faces))["mae"])
    for path in (f"hf://{REPO}", Path(f"hf://{REPO}"), run / "model"):
        with pytest.raises(UserError, match=r"a model without its run, so its data are not known: .* --data"):
            evaluate(path)
    with pytest.raises(UserError, match=r"hf://alice/ages is a model without its run: measure the run"):
        frame(Path(f"hf://{REPO}"))


def test_the_card_reads_as_the_hub_reads_it(hub: Hub, run: Path) -> None:
    from huggingface_hub import ModelCard

    push(run, REPO, PushOptions("cc-by-nc-4.0"), log=lambda _: None)
    card = ModelCard(pushed_text(hub, "README.md"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("jaxage", "image-classification")
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", None)
    assert {"jaxage", "age-estimation", "tiny"} <= set(card.data.tags)
    test = json.loads((run / "report.json").read_text())["test"]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) == set(METRICS) - {"plcc"}  # undefined
    for name, result in found.items():
        assert result.metric_value == test[name]
        assert result.metric_args == {"ci95": test[f"{name}_ci95"]}
        assert result.metric_name == METRICS[name].heading
        assert (result.dataset_name, result.dataset_split, result.dataset_args) == ("faces", "test", {"n": 4608})
    assert (run / "model" / "README.md").read_text().rstrip() in card.text
    assert f"jaxage predict hf://{REPO}" in card.text


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("Research only, as UTKFace", {"license": "other", "license_name": "research-only-as-utkface"}),
        ("a: b\n---\n", {"license": "other", "license_name": "a-b"}),
    ],
)
def test_a_license_is_an_identifier_or_a_name(text: str, metadata: dict[str, str]) -> None:
    assert parse_license(text).metadata == metadata
    assert "\n" not in parse_license(text).text


def test_published_weights_are_the_base_model_and_drawn_faces_are_named(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report |= {"weights": {"tag": "resnet18.imagenet1k_v1", "sha256": "0"}, "demonstration": True}
    license = parse_license("mit")
    assert hub_metadata(report, REPO, license)["base_model"] == "timm/resnet18.tv_in1k"
    assert "say nothing of people" in hub_text("# card", report, REPO, license)


def test_the_license_is_asked_for_on_a_terminal_only(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", io.StringIO("mit\n"))
    with pytest.raises(UserError, match="add --license"):
        push(run, REPO)
    monkeypatch.setattr("sys.stdin", Terminal(""))
    with pytest.raises(UserError, match="add --license"):
        push(run, REPO)
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    with pytest.raises(UserError, match="names no license"):
        push(run, REPO)
    assert not hub.calls
    monkeypatch.setattr("sys.stdin", Terminal("mit\n"))
    push(run, REPO, log=lambda _: None)
    assert "license: mit" in pushed_text(hub, "README.md")


def test_what_is_no_finished_run_is_not_pushed(hub: Hub, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no report\.json"):
        push(tmp_path, REPO, PushOptions("mit"))
    (tmp_path / "report.json").write_text((run / "report.json").read_text())
    (tmp_path / "model").mkdir()
    for name in ("model.json", "README.md"):
        (tmp_path / "model" / name).write_text((run / "model" / name).read_text())
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x80\x04a pickle")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        push(tmp_path, REPO, PushOptions("mit"))
    assert not hub.calls
