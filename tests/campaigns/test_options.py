"""Thousands of mutated option files, overrides and run folders: each is used or a message, and nothing is written elsewhere."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml

import sr_nas.jobs.train
from sr_nas.analysis.model_table import BenchmarkOptions
from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.search.searcher import Searcher
from sr_nas.task import search_options, training_options
from tests.campaigns.machinery import MESSAGE, OK, Campaign, call
from tests.conftest import REPOSITORY
from tests.options.test_basicsr_files import EDSR

pytestmark = pytest.mark.campaign

BATCH = 50
"""Option files that one process reads."""
OPTIONS, JOBS = REPOSITORY / "options", REPOSITORY / "tests" / "jobs"
# As they stand in a file: numbers, words, tags, nesting, aliases and noise.
PLAIN = (
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "16",
    "0.5",
    "1e-4",
    "1e-300",
    "1e300",
    "100",
    "1e18",
    "9223372036854775807",
    "true",
    "false",
    "null",
)
RAW = (
    *("0", "-1", "1", "2", "3", "0.5", "-0.0", "1e-4", "1e999", "-1e300", ".nan", ".inf", "-.inf", "0777", "0o17", "0x1F"),
    *("1_000", "1:30", "2024-01-01", "2024-13-45", "9223372036854775807", "9223372036854775808", "1e18", "'12'"),
    *("1" + "0" * 400, "9" * 5000, "null", "~", "true", "false", "on", "off", "''", "a", "auto", "[]", "{}", "[1]", "[a, b]"),
    *("[[1, 2], [3]]", "{a: 1}", "{a: {b: c}}", "!!int x", "!!int 12", "!!float 1e3", "!!float x", "!!bool maybe", "!!str 3"),
    *(
        "!!binary aGk=",
        "!!set {a}",
        "!!python/name:os.x",
        "!unknown x",
        "&a [*a]",
        "*gone",
        "{<<: {a: 1}}",
        "{1: 2}",
        "{? [a] : b}",
    ),
    *("[" * 60, "[" * 3000, "{a: " * 900, '"\\0"', '"\\ud800"', "|\n  text", "@x", "%x", "`x", "a: b: c", "- x", "\t", "\x01"),
    *("ü", "日本", "[" + "x, " * 3000 + "]", "x" * 5000, "../..", "/", "/dev/null", "experiments/none", "none.json", "~/none"),
    *(
        "~nobody/none",
        "a" * 300,
        "conv_3x3",
        "[conv_3x3, conv_3x3, conv_3x3, conv_3x3]",
        "IMDN",
        "DLSR",
        "basicsr.EDSR",
        "folder",
    ),
    *("sample", "Adam", "SGD", "softmax", "{type: folder, dataroot_gt: /dev/null}", "{type: a}", "{type: [1]}"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2**70, 1e-300, float("nan"), "x", "9" * 30),
    *([], {}, [None], {"type": 3}, {"a": {"b": []}}),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def mutated(content: Any, random: Random, values: Callable[[], Any]) -> Any:
    """Return a copy with one to four values deleted, renamed, doubled, moved, wrapped or replaced by one of ``values``."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not (paths := list(places(content))):
            return values()
        *parent, key = random.choice(paths)
        section = at(content, tuple(parent))
        change = random.choice(("delete", "rename", "double", "move", "wrap", "replace", "replace", "replace"))
        if change == "delete":
            del section[key]
        elif change == "replace":
            section[key] = values()
        elif change == "wrap":
            section[key] = random.choice(([section[key]], {"type": section[key]}, {str(key): section[key]}))
        elif change == "move":
            section[key] = copy.deepcopy(at(content, random.choice(paths)))
        elif isinstance(section, list):
            section.insert(key, copy.deepcopy(section[key]))
        else:
            other = random.choice((*(path[-1] for path in paths), f"{key}x", str(key)[:-1], "type", "_base_", ""))
            section[str(other)] = section.pop(key) if change == "rename" else copy.deepcopy(section[key])
    return content


def noisy(text: str, random: Random) -> bytes:
    """Return a text with lines or bytes deleted, doubled, swapped, indented or overwritten."""
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 8))):
        place = random.randrange(len(lines))
        change = random.randrange(5)
        if change == 0:
            lines[place] = " " * random.randrange(1, 5) + lines[place]
        elif change == 1:
            lines.insert(place, lines[random.randrange(len(lines))])
        elif change == 2:
            lines[place] = lines[place].replace(
                random.choice((": ", ",", "[", "]", "{", "'")), random.choice((":", "", "[", "&a ", "*a "))
            )
        elif change == 3:
            lines[place] += random.choice((" x", ": ", " #", "}", "]", "\r", "\t", " |", " &a", "\x00", "\ufeff"))
        else:
            del lines[place]
            lines.append("")
    data = bytearray("\n".join(lines).encode())
    if random.random() < 0.4:
        for _ in range(random.choice((1, 1, 4, 64))):
            data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data[: random.randrange(len(data))] if random.random() < 0.1 else data)


class Files:
    """The repository's option files, and mutations of them in a folder."""

    def __init__(self, folder: Path, random: Random, sources: list[Path]) -> None:
        self.folder, self.random = folder, random
        folder.mkdir(exist_ok=True)
        self.texts = {"basicsr": EDSR} | {str(file): file.read_text(encoding="utf-8") for file in sources}
        self.contents = {name: self._absolute(yaml.safe_load(text), name) for name, text in self.texts.items()}

    def _absolute(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        if base := content.get("_base_"):
            bases = [base] if isinstance(base, str) else base
            content["_base_"] = [str(Path(name).parent / each) for each in bases]
        return content

    def make(self, number: int, gentle: bool = False) -> tuple[Path, list[str]]:
        """Write a mutated file, in most cases a sound one where it is to be ``gentle``; return it with overrides."""
        name = self.random.choice(list(self.texts))
        content, raw = self.contents[name], self.random.choices(RAW, k=9)
        file = self.folder / f"{number}.yml"
        gentle = gentle and self.random.random() < 0.8
        if gentle:
            data = yaml.safe_dump(content).encode()
        elif self.random.random() < 0.7:
            tokens = iter(f"@@{place}@@" for place in range(9))
            changed = mutated(content, self.random, lambda: next(tokens, "x")) if self.random.random() < 0.8 else content
            text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=10**6)
            for place, value in enumerate(raw):
                text = text.replace(f"'@@{place}@@'", value)
            data = text.encode(errors="surrogateescape")
        else:
            data = noisy(yaml.safe_dump(content, sort_keys=False), self.random)
        file.write_bytes(data)
        keys = [":".join(map(str, path)) for path in places(content) if all(isinstance(key, str) for key in path)]
        keys += ["network_g:nf", "network_g:genotype", "train:optim_g", "datasets:val_2", "search:alpha:offset", "a", "", "::"]
        count = 1 if gentle else self.random.choice((0, 0, 1, 2, 4))
        return file, [f"{self.random.choice(keys)}={self.random.choice(PLAIN if gentle else RAW)}" for _ in range(count)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def check_text(error: Exception) -> None:
    """Fail where a message is none for people."""
    text = str(error)
    assert text.strip() and len(text) < 20_000, text[:3000]
    assert "instance of" not in text and "<class" not in text, text


def read_all(cases: list[tuple[Path, list[str]]]) -> None:
    """Read and check option files as each tool does; what goes wrong otherwise than by a message leaves a traceback."""
    for file, overrides in cases:
        for model in (search_options, training_options, BenchmarkOptions):
            _read(model, file, overrides)


def _read(model: Any, file: Path, overrides: list[str]) -> None:
    try:
        load_options(model, file, overrides, check_files=bool(len(overrides) % 2))
    except (UserError, OSError) as error:
        check_text(error)
    except BaseException:
        print(f"{file.read_bytes()[:3000]!r}\n{overrides!r}"[:6000], file=sys.stderr)
        raise


def test_option_files(campaign: Campaign, tmp_path: Path) -> None:
    files = Files(tmp_path / "files", campaign.random, sorted(OPTIONS.rglob("*.yml")))
    (tmp_path / "work").mkdir()
    for start in range(0, campaign.count(10_000), BATCH):
        cases = [files.make(number) for number in range(start, start + BATCH)]
        before = tree(tmp_path)
        outcome = campaign.call(partial(read_all, cases), folder=tmp_path / "work", seconds=120)
        campaign.outcomes["files"] += BATCH
        assert outcome.verdict != OK or tree(tmp_path) == before, "reading options has written something"
        for file, _ in cases:
            file.unlink()


def first_step(*words: str | Path) -> int:
    """Run a command up to its first step, in a child."""

    def step(trainer: Any, *_: Any) -> None:
        next(iter(trainer.steps()), None)
        raise UserError("the first step is done.")

    def search_step(self: Searcher, on_step: Any, *_: Any) -> bool:
        def stop(losses: Any) -> None:
            raise UserError("the first step is done.")

        return run(self, stop, *_)

    run, Searcher.run = Searcher.run, search_step  # type: ignore[method-assign, assignment]
    sr_nas.jobs.train.fit = step  # type: ignore[assignment]
    torch.set_num_threads(1)
    return call(*words)


def test_first_steps(campaign: Campaign, tmp_path: Path) -> None:
    files = Files(tmp_path / "files", campaign.random, [JOBS / "tiny.yml", JOBS / "tiny_train.yml", JOBS / "tiny_dlsr.yml"])
    del files.texts["basicsr"]
    for number in range(campaign.count(600)):
        file, overrides = files.make(number, gentle=True)
        (work := tmp_path / "work").mkdir()
        tool = "train" if b"total_iter" in file.read_bytes() else "search"
        words = [tool, "-opt", file, "--force_yml", *overrides, f"path:experiments_root={work / 'runs'}", "num_gpu=0"]
        outcome = campaign.call(partial(first_step, *words), folder=work, seconds=60)
        campaign.outcomes["first steps"] += "the first step is done." in outcome.text
        assert {path.name for path in work.iterdir()} <= {"runs"}, "something was written outside the run's folder"
        shutil.rmtree(work)


def mutated_bytes(data: bytes, name: str, random: Random) -> bytes:
    """Return a damaged file of a run: of JSON and YAML also values of other kinds."""
    kind = Path(name).suffix
    structured = random.random() < 0.7
    if kind == ".json" and structured:
        return json.dumps(mutated(json.loads(data), random, lambda: random.choice(VALUES))).encode()
    if kind == ".jsonl" and structured:
        lines = data.splitlines()
        place = random.randrange(len(lines))
        lines[place] = json.dumps(mutated(json.loads(lines[place]), random, lambda: random.choice(VALUES))).encode()
        return b"\n".join(lines) + b"\n"
    if kind == ".yml" and structured:
        return yaml.safe_dump(mutated(yaml.safe_load(data), random, lambda: random.choice(VALUES))).encode()
    if kind in (".yml", ".json", ".jsonl"):
        return noisy(data.decode(), random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 4, 64))):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed[: random.randrange(len(changed))] if random.random() < 0.3 else changed)


def stopped(*words: str | Path) -> int:
    """Run a command in a child as if a signal had come in its first step."""
    GracefulShutdown.agreed = lambda self: True  # type: ignore[method-assign]
    GracefulShutdown.exit_code = 0  # type: ignore[method-assign, assignment]
    return call(*words)


def test_run_folders(campaign: Campaign, tmp_path: Path) -> None:
    work, root = tmp_path / "work", ["--force_yml", "path:experiments_root=runs"]
    work.mkdir()
    search = ["search", "-opt", JOBS / "tiny.yml", *root, "search:steps_per_epoch=1"]
    train = ["train", "-opt", JOBS / "tiny_train.yml", *root, "train:total_iter=4"]
    for words in (search, train):
        assert campaign.run(*words, folder=work).verdict == OK
        assert campaign.call(partial(stopped, *words, "name=stopped"), folder=work).verdict == OK
    kept = {path.name: tree(path) for path in (work / "runs").iterdir()}
    shutil.rmtree(work)
    assert list(kept) and "checkpoint.pt" in kept["stopped_2"]
    genotype = ["network_g:genotype=runs/tiny", "network_g:nf=16", "network_g:num_blocks=1"]
    commands: list[tuple[str, list[str | Path]]] = [
        ("stopped", [*search, "name=stopped", "--auto_resume"]),
        ("stopped_2", [*train, "name=stopped", "--auto_resume"]),
        ("tiny", ["complexity", "--model", "runs/tiny", "--json"]),
        ("tiny", ["analyze", "curves", "runs/tiny"]),
        ("tiny", ["analyze", "gaps", "runs/tiny"]),
        ("tiny", ["export", "--run", "runs/tiny", "-o", "out.json"]),
        ("tiny", ["train", "-opt", JOBS / "tiny_train.yml", *root, "name=other", "train:total_iter=1", *genotype]),
        ("tiny_train", ["complexity", "--model", "runs/tiny_train", "--json"]),
        ("tiny_train", ["export", "--run", "runs/tiny_train", "-o", "out.pth"]),
    ]
    relevant = {"genotype.json", "network_g.yml", "history.jsonl", "run.json", "options.yml", "checkpoint.pt", "best.safetensors"}
    for _ in range(campaign.count(1000)):
        run, words = campaign.random.choice(commands)
        for name, data in kept[run].items():
            (file := work / "runs" / run / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        name = campaign.random.choice(sorted(relevant & kept[run].keys()))
        changed = mutated_bytes(kept[run][name], name, campaign.random)
        (work / "runs" / run / name).write_bytes(changed)
        outcome = campaign.run(*words, folder=work, seconds=60)
        if outcome.verdict not in (OK, MESSAGE):
            campaign.cases[-1:] = [f"{name}: {changed[:2000]!r}\n{campaign.cases[-1]}"]
        written = {path.name for path in work.iterdir()} - {"runs", "analyses", "out.json", "out.pth", "out.md"}
        assert not written and {path.name for path in (work / "runs").iterdir()} <= {
            run,
            "other",
            *(f"stopped{end}" for end in ("", "_2", "_3")),
        }
        shutil.rmtree(work)
