"""Pages of runs: what they state, that they need nothing else, and that nobody's text becomes HTML."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from sr_nas.errors import UserError
from sr_nas.genotype import Choice
from sr_nas.networks.imdn import IMDN
from sr_nas.report.page import FRONT, LiveReport, Section, as_svg, crops_of, write_page, write_report
from sr_nas.report.plots import comparison_figure, curves_figure, save
from sr_nas.runs.run_dir import append_history, read_history
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING, run

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"


class Page(HTMLParser):
    """The elements and the text of a page; what a browser would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def is_self_contained(page: Page) -> bool:
    return (
        not page.handlers
        and page.tags.count("script") == 1
        and all(address.startswith(("data:", "#")) for address in page.addresses)
    )


@pytest.fixture
def folder(tmp_path: Path, make_history, imdn_choices) -> Path:
    """A search that has come to epoch 3 of 5, with a name and data that no one should have."""
    folder = tmp_path / f"a{HOSTILE.replace('/', '')}"
    folder.mkdir()
    options = {
        "name": "tiny",
        "scale": 2,
        "datasets": {"train": {"name": HOSTILE, "type": "sample"}},
        "network_g": {"type": "IMDN"},
        "search": {"epochs": 5, "budget": {"params": 800_000}},
        "manual_seed": 7,
    }
    (folder / "options.yml").write_text(yaml.safe_dump(options))
    start = {
        "started": "2030-01-01",
        "command": ["tools/search.py", "-opt", HOSTILE],
        "python": "3.11",
        "packages": {"torch": "2"},
    }
    (folder / "run.json").write_text(json.dumps([start]))
    for record in make_history(imdn_choices, 3):
        budget = {"limit": 8e5, "expected": 9e5, "argmax": 7e5, "decoded": 7e5, "multiplier": 0.5}
        append_history(folder, record | {"budget": {"params": budget}})
    (folder / FRONT).write_text(json.dumps({"cost": "params", "networks": [{"params": 7e5, "log_beta": -3.0}]}))
    return folder


@pytest.fixture
def space(imdn_choices) -> SimpleNamespace:
    choices = {label: Choice(tuple(names)) for label, names in imdn_choices.items()}
    return SimpleNamespace(choices=lambda: choices, drawing=IMDN(2, 16, 1).drawing, arch="IMDN")


@pytest.mark.long
def test_the_page_of_a_search_states_what_its_folder_holds(folder: Path, space) -> None:
    write_report(folder, space)
    assert {path.name for path in (folder / "plots").iterdir()} == {"beta.png", "budget.png", "curves.png", "front.png"}
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert is_self_contained(page)
    assert "Asked for: a network of the space IMDN that upscales by 2 within params 800K, 5 epochs on" in page.text
    assert "Not ended yet, after epoch 3 of 5: IMDN(" in page.text
    assert "715,176 parameters" in page.text and "budget params 700K of 800K" in page.text
    assert HOSTILE in "".join(page.words)
    # beta of 4 choices, curves, budget and multiplier, front; the legend of beta; a drawing
    assert [text.count(f'class="{kind}"') for kind in ("panel", "legend", "drawing")] == [4 + 3 + 2 + 1, 1, 1]
    assert "python tools/search.py -opt" in page.text
    assert len(text) < 2e6


def test_a_run_that_has_only_begun_has_a_page(folder: Path, space) -> None:
    (folder / "history.jsonl").unlink()
    write_report(folder, space)
    assert "Nothing has come out yet." in Page((folder / "report.html").read_text()).text


def test_names_in_figures_stay_text() -> None:
    figure = curves_figure("epoch", [0, 1], {HOSTILE: {HOSTILE: [1.0, 2.0], "other": [0.0, 1.0]}}, {})
    (svg,) = as_svg(figure)
    assert not Page(str(svg)).handlers and "script" not in Page(str(svg)).tags
    assert HOSTILE in "".join(ET.fromstring(str(svg)).itertext())
    assert "var(--ink)" in svg and "#222222" not in svg


def test_crops_are_the_pixels_of_the_images(tmp_path: Path) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8) for seed in range(3)]
    titles = [HOSTILE, "network", "HR"]
    save(comparison_figure(list(zip(titles, images, strict=True)), (5, 6, 35, 26)), tmp_path / "comparison.png")
    crops = crops_of(tmp_path / "comparison.png")
    assert [title for title, _ in crops] == titles
    for (_, crop), image in zip(crops, images, strict=True):
        np.testing.assert_array_equal(np.asarray(crop), image[6:26, 5:35])
    write_page(tmp_path / "page.html", HOSTILE, [HOSTILE], [Section(HOSTILE, pictures=[tmp_path / "comparison.png"])])
    page = Page((tmp_path / "page.html").read_text())
    assert is_self_contained(page) and page.tags.count("img") == 3


@pytest.mark.slow
def test_many_crops_are_compressed_and_the_page_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    for number in range(10):
        save(comparison_figure([("one", noise), ("other", noise)], (0, 0, 128, 128)), tmp_path / f"{number}.png")
    sizes = []
    for count in (5, 10):
        write_page(tmp_path / "page.html", "", [], [Section("", pictures=sorted(tmp_path.glob("*.png"))[:count])])
        page = (tmp_path / "page.html").read_text()
        assert ("crops on this page are compressed" in page) == (count == 10)
        sizes.append(len(page))
    assert sizes[0] < 1.3e6 and sizes[1] < sizes[0]


def test_a_picture_that_does_not_say_where_crops_are_is_shown_whole(tmp_path: Path) -> None:
    save(curves_figure("epoch", [0], {"a": {"b": [1.0]}}), tmp_path / "comparison.png")
    ((title, picture),) = crops_of(tmp_path / "comparison.png")
    assert title == "comparison.png" and picture.size[0] > 100


def test_a_live_report_waits(folder: Path, space, reports, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("sr_nas.report.page.time.monotonic", lambda: clock[0])
    written: list[float] = []

    def write(*_: object) -> None:
        written.append(clock[0])
        clock[0] += 2

    monkeypatch.setattr("sr_nas.report.page.write_report", write)
    report = LiveReport(folder, space)
    for second in range(0, 500, 10):
        clock[0] = max(clock[0], second)
        report.write_if_due()
    assert written == [30, 240, 450]  # drawing takes 2 s, a hundredth of the time: 200 s pass before the next
    LiveReport(None, space).write()
    assert len(written) == 3


@pytest.mark.long
def test_a_search_writes_its_page_and_the_command_writes_it_again(tmp_path: Path, reports) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard")
    short = "search:epochs=1", "logger:use_tb_logger=true"
    run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path}", *short)
    folder = tmp_path / "tiny"
    events = accumulator.EventAccumulator(str(folder / "tb")).Reload()
    last = read_history(folder)[-1]
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [
        (last["step"], pytest.approx(last["loss"]["train"]))
    ]
    text = (folder / "report.html").read_text()
    assert "Came out: IMDN(" in Page(text).text
    (folder / "report.html").unlink()
    assert str(folder / "report.html") in run("report", str(folder))
    again = Page((folder / "report.html").read_text())
    assert Page(text).text == again.text
    assert re.search(r"1 epochs on scikit-image photos, seed 0", again.text)


def test_a_folder_of_no_run_is_an_error(tmp_path: Path) -> None:
    assert "no folder of a search or a training" in run("report", str(tmp_path), code=1)
    (tmp_path / "options.yml").write_text("network_g: {type: IMDN}\n")
    (tmp_path / "run.json").write_text("[{}]")
    assert f"a file in {tmp_path} is damaged, or no run wrote it: KeyError('datasets')" in run("report", str(tmp_path), code=1)
    (tmp_path / "options.yml").unlink()
    with pytest.raises(UserError):
        write_report(tmp_path)


def test_a_training_writes_its_page(tmp_path: Path, reports) -> None:
    run(
        "train", "-opt", TINY_TRAINING, "--force_yml", f"path:experiments_root={tmp_path}", "train:total_iter=2", "val:val_freq=1"
    )
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in (folder / "plots").iterdir()} == {"curves.png"}
    page, (*_, last) = Page((folder / "report.html").read_text()), read_history(folder)
    assert is_self_contained(page) and page.tags.count("img") == 3
    ((name, scores),) = last["val"].items()
    best = max(record["val"][name]["psnr"] for record in read_history(folder))
    assert f"has psnr {name} {best:.3f} (bicubic {scores['bicubic']['psnr']:.3f})" in page.text
    titles = [title for title, _ in crops_of(folder / "comparison.png")]
    assert [title.split(", ")[0] for title in titles[:2]] == ["bicubic", folder.name] and titles[2].endswith(", HR")
