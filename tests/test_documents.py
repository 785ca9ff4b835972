"""The documents: their links, files, names and commands exist; tables and walks of architecture.md are those of the code."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmark
import build_benchmark
import degradation
import prepare_data
import pytest
import yaml

from sr_nas.cli import COMMANDS, parser_of
from tests.conftest import REPOSITORY
from tests.test_import_rule import FLOORS

PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "datasets/README.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md")) + sorted((REPOSITORY / "sr_nas").rglob("*.md"))
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")

TOP = ("sr_nas/", "tools/", "tests/", "options/", "docs/", ".ci/")
MADE = re.compile(r"^# (?:new file )?(\S+)$", re.M)
"""First line of a code block that is a new file of the reader's, such as mine/share.py."""
WALK = str(REPOSITORY / "tools" / "walk.py")
SETTINGS_TENSOR = "sr_nas.settings"
LEFT_OUT = set("$<>*{}|=")


def each(page: Callable[[str], Iterator[Any]]) -> pytest.MarkDecorator:
    """Parametrise a test by what a function finds in the text of every page."""
    cases = [(file, item) for file in PAGES for item in dict.fromkeys(page(file.read_text(encoding="utf-8")))]
    ids = [f"{file.relative_to(REPOSITORY)}: {item}" for file, item in cases]
    return pytest.mark.parametrize(("file", "item"), cases, ids=ids)


def links(text: str) -> Iterator[str]:
    """Relative link targets, without their anchors."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and (name := target.partition("#")[0]):
            yield name


def files(text: str) -> Iterator[str]:
    """Paths of the repository, and names of Python files, that are no link."""
    made = {name for file in MADE.findall(text) for name in (file, Path(file).name)}
    for word in re.split(r"[\s`'\"(),;]+", re.sub(r"\]\([^)]*\)", "", text)):
        name = word.rstrip(".:").partition("::")[0]
        if LEFT_OUT.isdisjoint(name) and (name.startswith(TOP) or name.endswith(".py")) and name not in made:
            yield name


def modules(text: str) -> Iterator[str]:
    """Dotted names in the package."""
    made = {name.removesuffix(".py").replace("/", ".") for name in MADE.findall(text)}
    yield from (name for name in re.findall(r"\bsr_nas(?:\.\w+)+", text) if name not in {SETTINGS_TENSOR, *made})


def commands(text: str) -> Iterator[str]:
    """Commands of this repository, without what redirects or loops around them."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M):
        joined = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace("\n", " "), block.replace("\\\n", " "))
        for line in joined.splitlines():
            if match := re.search(r"(?:tools/(\w+)\.py|sr-nas (\w+))(?: (.*))?$", re.split(r" [#>] ", line)[0].rstrip()):
                yield " ".join(filter(None, match.groups()))


@each(links)
def test_links_lead_to_files(file: Path, item: str) -> None:
    assert (file.parent / item).exists()


@each(files)
def test_named_files_exist(file: Path, item: str) -> None:
    assert any((root / item).exists() for root in (REPOSITORY, REPOSITORY / "sr_nas", REPOSITORY / "tools"))


@each(modules)
def test_dotted_names_exist(file: Path, item: str) -> None:
    assert resolves(item)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parent, _, last = name.rpartition(".")
    try:
        package = pkgutil.resolve_name(parent)
    except (ImportError, AttributeError):
        return False
    # A module is looked for and not imported: some of the bridge register networks elsewhere.
    return hasattr(package, last) or (hasattr(package, "__path__") and importlib.util.find_spec(name) is not None)


@each(commands)
def test_commands_parse(file: Path, item: str) -> None:
    command, *words = shlex.split(item)
    if command in ("walk", "option_schema"):
        return
    if command in COMMANDS:
        args, rest = parser_of(command).parse_known_args(words)
        assert not rest or command == "complexity"
        option_file = getattr(args, "opt", None)
        assert option_file is None or "$" in option_file or option_file.startswith(("options/", "mine/"))
    else:
        parsers = {"prepare_data": prepare_data.make_parser, "benchmark": benchmark.parser}
        parsers |= {"build_benchmark": build_benchmark.make_parser, "degradation": degradation.make_parser}
        parsers[command]().parse_args(words)


def test_what_does_not_exist_is_noticed() -> None:
    text = "`sr_nas/no.py` and sr_nas.search.alpha.no; [a](docs/no.md)\n```sh\npython tools/search.py --no\n```\n"
    assert list(files(text)) == ["sr_nas/no.py", "tools/search.py"] and list(links(text)) == ["docs/no.md"]
    (name,) = modules(text)
    assert not resolves(name) and resolves("sr_nas.search.alpha.Alpha") and not resolves("sr_nas.no")
    assert list(commands(text)) == ["search --no"]


def test_the_floors_are_those_of_the_import_rule() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", ARCHITECTURE, re.M)
    assert [(int(floor), set(re.findall(r"`(\w+)`", rooms))) for floor, rooms in rows] == list(enumerate(FLOORS))


@pytest.mark.slow
def test_the_walks_are_those_of_the_tool() -> None:
    sections = re.split(r"^(?:\*\*A \w+\*\*|One step|## )", ARCHITECTURE.partition("## Three walks")[2], flags=re.M)
    search, step, training, photo = (sorted(set(re.findall(r"`([\w/]+\.py)`", section))) for section in sections[1:5])
    printed = subprocess.run([sys.executable, WALK, "--files"], capture_output=True, text=True, check=True).stdout
    walks = re.findall(r"^(\w+) +\d+ files, .*\n((?: {10}\S+\.py\n)+)", printed, re.M)
    assert {name: sorted(names.split()) for name, names in walks} == {
        "search": search, "step": step, "training": training, "photo": photo,
    }  # fmt: skip


def test_every_page_has_a_place_on_the_site() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"\S+\.md", text.partition("\nnav:\n")[2])
    pages = [file.relative_to(REPOSITORY / "docs").as_posix() for file in (REPOSITORY / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*pages, "start.md", "contributing.md", "datasets.md"])
    assert yaml.safe_load(text)["theme"]["font"] is False  # else every page would load one from the net


def test_the_site_has_every_option() -> None:
    pytest.importorskip("mkdocs", reason="pip install 'sr_nas[docs]'")
    import docs_site

    def keys(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from part.get("properties", {}) if isinstance(part.get("properties"), dict) else ()
            part = list(part.values())
        for item in part if isinstance(part, list) else ():
            yield from keys(item)

    schema = (REPOSITORY / "options" / "schema.json").read_text(encoding="utf-8")
    paths = re.findall(r"^\| `([\w.[\]]+)", docs_site.option_tables(), re.M)
    printed = {name for path in paths for name in re.split(r"[.[\]]+", path)}
    assert set(keys(json.loads(schema))) - printed == {"_base_"}


def test_links_of_the_repository_are_those_of_the_site() -> None:
    pytest.importorskip("mkdocs", reason="pip install 'sr_nas[docs]'")
    import docs_site

    def turned(place: str, text: str) -> str:
        page: Any = SimpleNamespace(file=SimpleNamespace(src_uri=place))
        return docs_site.on_page_markdown(text, page, None, None)  # type: ignore[arg-type]

    assert turned("start.md", "[a](docs/a.md#b) ![i](docs/images/i.png)") == "[a](a.md#b) ![i](images/i.png)"
    assert turned("datasets.md", "[a](../docs/a.md) [r](../README.md)") == "[a](a.md) [r](start.md)"
    assert turned("a.md", "[c](../CONTRIBUTING.md#x) [b](b.md) [n](https://n.org) [y](../options/y.yml) [h](#h)") == (
        "[c](contributing.md#x) [b](b.md) [n](https://n.org) y [h](#h)"
    )
    assert docs_site.on_page_content("see :func:<code>~sr_nas.a.b</code>; `c:d`", None, None, None) == "see <code>b</code>; `c:d`"
    assert turned("reference/p.md", "[c](../../CONTRIBUTING.md) [a](../a.md)") == "[c](../contributing.md) [a](../a.md)"
