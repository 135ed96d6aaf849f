import csv
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jaxage.commands.study.page import write_study
from jaxage.commands.study.plots import _line_style
from jaxage.commands.study.recipes import REPORT_MODELS, ModelSpec, Protocol
from jaxage.commands.study.summary import FailedRun, Result, summarize
from jaxage.metrics import METRICS, Metric, cumulative_score
from tests.studies import dataset, made_up

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def study(
    folder: Path,
    protocols: tuple[Protocol, ...] = ("report", "best"),
    models: Sequence[ModelSpec] = REPORT_MODELS[::-1],
    **changes: Any,
) -> Path:
    results: list[Result] = [
        made_up(protocol, spec, seed, noise=4 + place + 3 * (protocol == "report"))
        for protocol in protocols
        for place, spec in enumerate(models)
        for seed in range(2)
    ]
    data = {protocol: dataset() for protocol in protocols}
    failed: list[FailedRun] = [{"run": "best, resnet18:all, seed 0", "reason": "the loss <is> no number"}]
    summary: Any = summarize(results, data, failed, [spec.name for spec in models])
    funnel = [{"step": "single face", "kept": 10, "dropped": 2}]
    write_study(folder, summary | {"funnel": funnel, "demonstration": False} | changes, results, data, worst=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


class Page(HTMLParser):
    """What the tests ask of a page: its tags with their attributes, its text, and that tags are closed in turn."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    text = (folder / "study.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(list((folder / "figures").iterdir())) == 14 + 1 + 2 + 2 * 6
    for image in images:
        assert (image["src"] or "").startswith("data:image/png;base64,")
        assert len(image["alt"] or "") > 40
    links = [a.get("href") or "" for tag, a in page.tags if tag in ("a", "link")]
    anchors = {a.get("id") for _, a in page.tags}
    assert all(link == "data:," or (link.startswith("#") and link[1:] in anchors) for link in links)
    assert not any(tag in ("script", "iframe", "object") for tag, _ in page.tags)
    assert "url(" not in text


def test_what_came_from_outside_is_text(folder: Path) -> None:
    text = (folder / "study.html").read_text()
    assert escape("drawn <faces> & more") in text
    assert "<faces>" not in text
    assert escape("the loss <is> no number") in text


def test_every_number_of_the_json_is_in_both_texts(folder: Path) -> None:
    summary = json.loads((folder / "study.json").read_text())
    html, markdown = ((folder / f"study.{end}").read_text() for end in ("html", "md"))
    assert len(summary["models"]) == 14
    for model in summary["models"]:
        score = model["scores"]["plcc"]
        mean, ends = f"{score['mean']:.3f}", f"[{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"
        assert f"<td>{mean}<small>{ends}<br>±" in html
        assert f"{mean} {ends}" in markdown
    for step in summary["steps"] + summary["gains"]:
        measured = step["metrics"]["mae"]
        shown = f"{measured['difference']:+.2f} [{measured['ci95'][0]:+.2f}, {measured['ci95'][1]:+.2f}]"
        assert shown in html
        assert shown in markdown


def test_the_markdown_has_whole_tables_and_its_pictures(folder: Path) -> None:
    text = (folder / "study.md").read_text()
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (folder / picture).is_file()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert len(table.splitlines()) > 2


def test_the_table_for_programs_has_a_line_for_each_model(folder: Path) -> None:
    with (folder / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((folder / "study.json").read_text())
    assert [row["trainable"] for row in rows] == [model["trainable"] for model in summary["models"]]
    for row, model in zip(rows, summary["models"], strict=True):
        assert float(row["mae"]) == pytest.approx(model["scores"]["mae"]["mean"], rel=1e-5)
        assert float(row["plcc_low"]) < float(row["plcc"]) < float(row["plcc_high"])


def test_pictures_are_pictures(folder: Path) -> None:
    for path in (folder / "figures").iterdir():
        with Image.open(path) as image:
            assert image.width >= 800
            assert len(image.convert("RGB").getcolors(2**24) or []) > 10


def test_drawn_faces_are_said_to_be_drawn(folder: Path, tmp_path: Path) -> None:
    drawn = study(tmp_path, ("best",), demonstration=True)
    for name in ("study.html", "study.md"):
        assert "demonstration on drawn faces" in (drawn / name).read_text()
        assert "demonstration on drawn faces" not in (folder / name).read_text()


def test_faces_are_not_left_where_none_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "worst-report.png").write_bytes(b"a face")
    study(tmp_path, ("best",))
    assert not (tmp_path / "figures" / "worst-report.png").exists()


def test_one_protocol_other_networks_and_a_metric_of_ones_own_make_a_page_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within_10 = partial(cumulative_score, within=10.0)
    monkeypatch.setitem(METRICS, "cs10", Metric(within_10, "CS@10", "", 2, higher_is_better=True, headline=True))
    study(tmp_path, ("best",), [ModelSpec("resnet50", layers) for layers in ("fc:0.5", "fc:0.5,layer4")])
    html, markdown, table = ((tmp_path / f"study.{end}").read_text() for end in ("html", "md", "csv"))
    Page(html)
    assert 'id="recipe"' not in html
    assert html.count('<th scope="col">CS@10</th>') == markdown.count(" CS@10 |") == 2
    assert re.search(r"best: resnet50 \+ layer4: (worse|PLCC.*CS@10)", html)
    assert table.splitlines()[0].endswith("cs10,cs10_spread,cs10_low,cs10_high")
    assert "resnet50,fc:0.5," in table


def test_lines_of_many_models_can_be_told_apart() -> None:
    assert len({str(_line_style(place)) for place in range(64)}) == 64


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_all_of_it(folder: Path, tmp_path: Path, width: int) -> None:
    """In a frame of that width: no sideways scrolling, every picture drawn, nothing on the console."""
    inner = escape((folder / "study.html").read_text(), quote=True)
    probe = """
      const page = document.querySelector('iframe').contentDocument;
      const images = [...page.images];
      document.title = 'seen';
      document.body.textContent = JSON.stringify({
        scroll: page.documentElement.scrollWidth, width: page.documentElement.clientWidth,
        drawn: images.filter(i => i.complete && i.naturalWidth > 100).length, images: images.length});
    """
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{inner}"></iframe>'
    shell = tmp_path / "shell.html"
    shell.write_text(f"<!DOCTYPE html><body>{frame}<script>window.onload = () => {{ {probe} }};</script>")
    arguments = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --virtual-time-budget=8000 --dump-dom"
    command = [CHROMIUM, *arguments.split(), f"--user-data-dir={tmp_path / 'profile'}", shell.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # type: ignore[arg-type]
    seen = json.loads(re.findall(r"\{[^{}]*\}", done.stdout)[-1])
    assert seen["scroll"] <= seen["width"] <= width
    assert seen["drawn"] == seen["images"] > 20
    assert "CONSOLE" not in done.stderr
