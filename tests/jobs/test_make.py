"""From photos to a network by one command: its plan, its option files, and a whole run that is killed on the way."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sr_nas.analysis.sweep import rungs
from sr_nas.errors import UserError
from sr_nas.export import model
from sr_nas.export.model import SHIPPED
from sr_nas.export.network_file import load_network
from sr_nas.images.files import read_rgb, write_image
from sr_nas.jobs import make
from sr_nas.jobs.make import RUNGS, Make, main, read_budget
from sr_nas.jobs.trials import Trial
from sr_nas.options.load import check_options, read_yaml
from sr_nas.options.sections import SearchOptions, TrainOptions
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.run_dir import read_history
from tests.jobs.processes import ENVIRONMENT, command, run
from tests.jobs.test_photos import folder_of, picture

NETWORK = {"type": "PLAIN", "nf": 16, "num_blocks": 6, "genotype": ["conv_3x3_2", "none"]}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Make]:
    """Make a make in an empty folder, with four photos, on a machine of two cores whose steps take a tenth of a second."""
    monkeypatch.chdir(tmp_path)
    folder_of(Path("photos"), 4)
    monkeypatch.setattr(make, "cores", lambda: 2)
    monkeypatch.setattr(make.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Make, "step_time", lambda *_: 0.1)
    costs = {"macs_hr": SimpleNamespace(least=5e8, most=9e10), "params": SimpleNamespace(least=2e3, most=4e5)}
    monkeypatch.setattr(make, "network_costs", lambda *_: costs)  # a second
    (tmp_path / "work" / "options").mkdir(parents=True)

    def build(budget: str = "10G", hours: float = 2.0, scale: int = 2, **more: Any) -> Make:
        names = {"photos": Path("photos"), "output": Path("net.safetensors"), "work": Path("work"), "overwrite": False}
        args = Namespace(**{**names, "budget": budget, "hours": hours, "scale": scale, **more})
        result = Make(args, args.work, read_budget(budget), sorted(Path("photos").rglob("*.png")), 0, GracefulShutdown())
        result.starting = 5.0
        return result

    return build


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10G", ("macs_hr", 1e10)), ("2.5G", ("macs_hr", 2.5e9)), ("150K", ("params", 150_000)), ("15ms", ("latency_ms", 15.0))],
)
def test_budgets(text: str, expected: tuple[str, float]) -> None:
    assert read_budget(text) == expected


@pytest.mark.parametrize("text", ["10", "10M", "G", "-1G", "0ms", "nanK", "infG", "ten ms", "1e99999G"])
def test_wrong_budgets(text: str) -> None:
    with pytest.raises(UserError, match="name a number above 0 with its unit, for example 10G"):
        read_budget(text)


def test_no_time_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--hours 0: give it some time"):
        main(Namespace(output=Path("x.safetensors"), hours=0.0))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("hours", "networks"), [(1.0, 12), (0.1, 4)])
def test_the_search_takes_its_share_of_the_time(made: Callable[..., Make], scale: int, hours: float, networks: int) -> None:
    raw = made(scale=scale, hours=hours).search_options()
    options = check_options(SearchOptions, raw, "search", check_files=False)
    assert options.search.selection.arguments()["networks"] == networks and options.search.budget.limits() == {"macs_hr": 1e10}
    assert options.datasets.train.gt_size == 24 * scale
    # a step of a network alone is taken for 0.3 of one of the supernet
    alone = 0.3 * 0.1 * networks * options.search.selection.arguments()["steps"]
    assert 5 + 0.1 * 8 * (options.search.steps_per_epoch or 0) + alone == pytest.approx(0.2 * 3600 * hours, rel=0.02)


@pytest.mark.parametrize(("within", "hours", "count"), [(30, 2.0, 9), (30, 0.1, 3), (5, 2.0, 3)])
def test_the_halving_takes_its_share_of_the_time(
    made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch, within: int, hours: float, count: int
) -> None:
    front = [{"macs_hr": 9e9}] * within + [{"macs_hr": 11e9}] * 20
    (folder := Path("work/search")).mkdir()
    (folder / "front.json").write_text(json.dumps({"cost": "macs_hr", "networks": front}))
    monkeypatch.setattr(Make, "searched", lambda _: NETWORK)
    one = made(hours=hours)
    assert one.contenders() == count
    options = check_options(TrainOptions, one.sweep_options(), "train", check_files=False)
    ends = rungs(Trial(options), count, 3)
    # by hand: two at a time, each with a start of 5 s
    seconds, left, before = 0.0, count, 0
    for end in ends:
        seconds, left, before = seconds + math.ceil(left / 2) * (5 + 0.1 * (end - before)), left // 3, end
    assert [left for left, _ in RUNGS[count]] == [count // 3**place for place in range(len(ends))]
    assert seconds == pytest.approx(0.25 * 3600 * hours, rel=0.05)
    assert options.train.ema_decay ** ends[0] < 0.2


def test_the_training_has_the_rest_of_the_time(made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(hours=2, scale=3)
    monkeypatch.setattr(one, "winner", lambda: NETWORK)
    monkeypatch.setattr(one, "used", lambda: 3000.0)
    options = check_options(TrainOptions, one.train_options(), "train", check_files=False)
    assert 3000 + 0.1 * options.train.total_iter + 3 * 5 == pytest.approx(0.97 * 7200, abs=1)
    assert options.val.val_freq == options.train.total_iter // 10 and options.logger.save_checkpoint_freq == 600
    monkeypatch.setattr(one, "used", lambda: 9000.0)  # after many kills, say
    assert one.train_options()["train"]["total_iter"] == 20


def test_a_search_with_few_networks_needs_no_halving(made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := Path("work/search")).mkdir()
    (folder / "front.json").write_text(json.dumps({"cost": "macs_hr", "networks": [{"macs_hr": 9e9}, {"macs_hr": 11e9}]}))
    (folder / "network_g.yml").write_text(json.dumps({"network_g": NETWORK}))
    one = made()
    assert one.contenders() == 1 and one.winner() == NETWORK
    ran = []
    monkeypatch.setattr(Make, "execute", lambda self, words, log: ran.append(words[0]) or int(words[0] != "search"))
    with pytest.raises(UserError, match="the step train has failed"):
        one.run()
    assert ran == ["train"]
    (folder / "front.json").write_text(json.dumps({"cost": "macs_hr", "networks": [{"macs_hr": 9e9}] * 2}))
    assert one.contenders() == 1


def test_the_plan(made: Callable[..., Make], capsys: pytest.CaptureFixture[str]) -> None:
    made().begin()
    printed = capsys.readouterr().out
    assert "4 photos in photos, 2:00:00; all that is made lies in work" in printed
    costs = "networks of this space have macs_hr 500M to 90G, params 2K to 400K"
    assert f"budget 10G: multiply-adds for an HR output of 1280x720; {costs}" in printed
    assert re.findall(r"^  (\w+) ", printed, re.MULTILINE) == ["photos", "search", "sweep", "train", "evaluate", "export", "onnx"]
    assert "about 0:24:00" in printed and "about 0:30:00" in printed
    assert next(name for name, *_ in made("15ms").steps()) == "latency"


def test_the_network_that_ships_is_measured_too(made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (make, model):
        monkeypatch.setattr(module, "shipped", lambda: ["fast_x2", "x2", "fast_x3", "x4"])
    for scale, names in (
        (2, {"network": "work/train", "shipped_x2": str(SHIPPED / "x2.safetensors")}),
        (3, {"network": "work/train"}),
        (4, {"network": "work/train", "shipped_x4": str(SHIPPED / "x4.safetensors")}),
    ):
        one = made(scale=scale)
        assert {name: entry["path"] for name, entry in one.evaluate_options()["models"].items()} == names
        purpose = next(purpose for name, purpose, *_ in one.steps() if name == "evaluate")
        ends = {2: "bicubic, x2", 3: "bicubic; no network of scale 3 is shipped", 4: "bicubic, x4"}
        assert purpose.endswith(ends[scale])


def test_what_cannot_go_on_is_refused(made: Callable[..., Make]) -> None:
    with pytest.raises(UserError, match=r"--budget 0.1G: no network is so small. At scale 2 they have macs_hr 500M to 90G"):
        made("0.1G").begin()
    made("9G").begin()
    made().begin()  # before the search another budget is no harm
    with pytest.raises(UserError, match=r"work was begun with --scale 2\. Give that again"):
        made("9G", scale=3).begin()
    Path("work/options/search.yml").touch()
    with pytest.raises(UserError, match=r"work was begun with --budget 10G, --hours 2\.0\. Give that again"):
        made("12G", 1.0).begin()
    Path("net.onnx").touch()
    with pytest.raises(UserError, match=r"net\.onnx exists\. Take it away, replace it with --overwrite, or choose another name"):
        made().begin()
    made(overwrite=True).begin()
    Path("net.onnx").unlink()
    Path("net.md").mkdir()
    with pytest.raises(UserError, match=r"net\.md exists\. Take it away, or choose another name\.$"):
        made(overwrite=True).begin()
    Path("net.md").rmdir()
    Path("file").touch()
    with pytest.raises(UserError, match=r"file/net\.safetensors cannot be written"):
        made(output=Path("file/net.safetensors")).begin()
    for words, message in (
        (("--photos", "photos", "--budget", "10G", "-o", "net.pth"), "is a .safetensors file"),
        (("--photos", "empty", "--budget", "10G", "-o", "net.safetensors"), "empty does not exist"),
        (("--photos", "photos", "--budget", "10", "-o", "net.safetensors"), "with its unit"),
    ):
        assert message in run("make", *words, code=1)
    assert not Path("experiments").exists()
    words = ("--photos", "photos", "--budget", "0.1G", "-o", "new.safetensors", "--work")
    assert "no network is so small" in run("make", *words, "new", code=1) and not Path("new").exists()
    assert "was begun with" in run("make", *words, "work", code=1) and Path("work/make.json").exists()


def test_a_folder_of_something_else_is_no_work_folder(made: Callable[..., Make]) -> None:
    words = ("make", "--photos", "photos", "--budget", "10G", "-o", "net.safetensors", "--work")
    before = sorted(Path("photos").rglob("*"))
    assert all("the photos in photos lie in it" in run(*words, work, code=1) for work in (".", "photos"))
    (mine := Path("mine/photos/child.png")).parent.mkdir(parents=True)
    mine.touch()
    assert "no make began there, and it holds photos." in run(*words, "mine", code=1) and mine.exists()
    assert "no network is so small" in run(*words[:4], "0.1G", "-o", "new/net.safetensors", "--work", "other", code=1)
    assert not Path("new").exists()
    Path("file").touch()
    assert "no make began there, and it holds file" in run(*words, "file", code=1)
    assert sorted(Path("photos").rglob("*")) == before and Path("file").is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [("make.json", "[]"), ("clock.json", '"x"'), ("photos.json", "{}"), ("search/front.json", "null"), ("latency.json", "[]")],
)
def test_a_damaged_file_is_named(made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch, name: str, content: str) -> None:
    monkeypatch.setattr(Make, "execute", lambda *_: 1)
    (file := Path("work", name)).parent.mkdir(exist_ok=True)
    file.write_text(content)

    def begin_and_run() -> None:
        one = made("60ms" if name == "latency.json" else "10G")
        one.begin()
        one.run()

    with pytest.raises(UserError, match=f"{name} is (damaged|no table)"):
        begin_and_run()


def test_the_time_that_a_process_takes_to_start_is_not_all_there_is(
    made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours, age, starting in ((1.0, 300.0, 54.0), (100.0, 60.0, 120.0)):
        began = time.time() - age
        monkeypatch.setattr(make.psutil, "Process", lambda began=began: SimpleNamespace(create_time=lambda: began))
        args = made(hours=hours).args
        one = Make(args, args.work, ("macs_hr", 1e10), [], 0, GracefulShutdown())
        assert one.starting == pytest.approx(starting, abs=2)


@pytest.mark.parametrize(("memory", "count"), [(64e9, 2), (2e9, 1), (1e8, 1)])
def test_as_many_trainings_at_a_time_as_the_memory_has(
    made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch, memory: float, count: int
) -> None:
    monkeypatch.setattr(make, "available_memory", lambda _: int(memory))
    monkeypatch.setattr(Make, "contenders", lambda _: 9)
    assert made().jobs() == count
    monkeypatch.setattr(make, "available_memory", lambda _: 0)
    assert made().jobs() == count  # which the plan was made for


def test_trainings_that_fail_leave_the_best_of_the_others(made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Make, "contenders", lambda _: 3)
    (options := Path("work/search-halving_sweep/options")).mkdir(parents=True)
    (options / "b.yml").write_text(json.dumps({"network_g": NETWORK}))
    one, table = made(), options.parent / "sweep.json"
    assert one.winner() is None
    table.write_text(json.dumps({"failed": {"a": "memory"}, "rungs": [{"scores": {"b": 2.0, "c": 1.0}}]}))
    assert one.winner() == NETWORK
    table.write_text(json.dumps({"failed": {"a": "memory"}, "rungs": []}))
    assert one.winner() is None


def test_names_of_any_language(made: Callable[..., Make]) -> None:
    assert made(work=Path("w\U0001f600")).latency_options()["datasets"]["train"]["dataroot_gt"] == "w\U0001f600/photos/train"


def test_a_step_that_fails_is_named_and_the_same_make_goes_on(
    made: Callable[..., Make], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, breaks = [], ["export"]

    def execute(self: Make, words: list[str], log: Path) -> int:
        """Stands for the commands: it writes what tells that they are done."""
        commands.append(words[0])
        work = self.work
        if words[0] in breaks:
            return 1
        for name in {"search": ["search/front.json"], "train": ["train/comparison.png"]}.get(words[0], []):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(json.dumps({"cost": "macs_hr", "networks": [{"macs_hr": 9e9}] * 3}))
        if words[0] == "sweep":
            (sweep := work / "search-halving_sweep" / "options").mkdir(parents=True)
            (sweep / "b.yml").write_text(json.dumps({"network_g": NETWORK}))
            rung = [{"scores": {"a": 1.0, "b": 2.0}}, {"scores": {"b": 3.0}}]
            (sweep.parent / "sweep.json").write_text(json.dumps({"failed": {}, "rungs": rung}))
        if words[0] == "evaluate":
            (work / "evaluation").mkdir()
            table = [{"name": "bicubic", "sets": {"kept_out": {"psnr": 30.1234, "ssim": 0.9}}}]
            (work / "evaluation" / "table.json").write_text(json.dumps({"complete": True, "models": table}))
        if words[0] == "export":
            Path(words[4]).write_text(words[4])
            Path(words[4]).with_suffix(".md").write_text("card")
        return 0

    monkeypatch.setattr(Make, "execute", execute)
    monkeypatch.setattr(Make, "searched", lambda _: NETWORK)
    with pytest.raises(
        UserError, match=r"the step export has failed: see the end of work/output/export\.txt.*alone is: sr-nas export"
    ):
        made().run()
    assert commands == ["search", "sweep", "train", "evaluate", "export"] and not Path("net.safetensors").exists()
    assert read_yaml(Path("work/options/train.yml"))["network_g"] == NETWORK
    commands.clear()
    breaks.clear()
    Path("net.md").write_text("of another make, which has ended meanwhile")
    with pytest.raises(UserError, match=r"net\.md exists"):
        made().run()
    Path("net.md").unlink()
    assert commands == ["export", "export"]
    commands.clear()
    assert made().run() and commands == []
    assert [Path(f"net.{end}").read_text() for end in ("safetensors", "onnx", "md")] == [
        "work/net.safetensors",
        "work/net.onnx",
        "card",
    ]
    page = Path("work/report.html").read_text()
    assert "30.123" in page and page.count("sr-nas export --run work/train") == 2 and "sr-nas sweep -opt" in page
    commands.clear()
    made().begin()  # its own results are no obstacle
    assert made().run() and not commands
    printed = capsys.readouterr().out
    assert "train: done before" in printed and "photos kept out: bicubic 30.123 dB\n" in printed


@pytest.mark.slow
def test_a_whole_run_that_is_killed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(8):
        write_image(photos / f"{number}.jpg", picture(number, 162, 162))
    before = {file: file.read_bytes() for file in photos.iterdir()}
    words = command("make", "--photos", "photos", "--budget", "10G", "--hours", "0.01", "-o", "net.safetensors")
    work = tmp_path / "experiments" / "make_net"
    # Killed in the search, at the end of the sweep and in the training: each saves itself, and the same command goes on.
    for watched in (
        work / "search" / "checkpoint.pt",
        work / "search-halving_sweep" / "options",
        work / "train" / "checkpoint.pt",
    ):
        process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while not watched.exists():
            if process.poll() is not None:  # the step that was killed still saved itself
                process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        used = json.loads((work / "clock.json").read_text())
    kept = {file: file.read_bytes() for file in (work / "options").iterdir()}
    for _ in range(600):  # until the step that was killed has saved itself
        done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if "another" not in done.stderr:
            break
        time.sleep(0.2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"networks of this space have macs_hr [\d.]+M to [\d.]+G, params [\d.]+K to [\d.]+K", done.stdout)
    assert "search: done before" in done.stdout and "sweep: done before" in done.stdout
    assert json.loads((work / "clock.json").read_text()) > used
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert {file: file.read_bytes() for file in photos.iterdir()} == before
    total = read_yaml(work / "options" / "train.yml")["train"]["total_iter"]
    assert [record["iteration"] for record in read_history(work / "train")][-1] == total
    page = (work / "report.html").read_text()
    assert all(f'href="{name}/report.html"' in page for name in ("search", "search-halving_sweep", "train", "evaluation"))
    network = load_network(tmp_path / "net.safetensors")
    table = json.loads((work / "evaluation" / "table.json").read_text())
    assert network.scale == 2 and table["complete"] and table["models"][0]["name"] == "bicubic"
    assert {"net.safetensors", "net.onnx", "net.md", "photos", "experiments"} == {file.name for file in tmp_path.iterdir()}
    assert read_rgb(next((work / "photos" / "kept_out").iterdir())).shape == (162, 162, 3)
