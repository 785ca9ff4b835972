"""The house's one structural law, read from the files themselves (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sr_nas"

# A room may import from rooms of a lower floor only; rooms of one floor never import each other.
FLOORS = [
    {"errors"},
    {"registry", "genotype"},
    {"contracts", "options", "losses", "optim", "runs"},
    {"ops", "search", "images", "complexity"},
    {"networks", "data", "metrics", "inference"},
    {"spaces", "export", "trainer", "report"},
    {"bridge", "task"},
    {"classification", "super_resolution"},
    {"jobs"},
    {"analysis", "app"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports_of(file: Path) -> set[str]:
    """Rooms of sr_nas that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: imports are absolute"
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "sr_nas" else [f"sr_nas.{alias.name}" for alias in node.names]
        found |= {parts[1] for name in names if (parts := name.split("."))[0] == "sr_nas" and len(parts) > 1}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in FLOOR, f"'{room}' has no floor yet: give it one here and in docs/architecture.md"
    for imported in imports_of(file) - {room, "__version__"}:
        assert FLOOR[imported] < FLOOR[room], f"{room} must not import {imported}"


def test_the_search_package_loads_no_image_library() -> None:
    modules = [f"sr_nas.search.{file.stem}" for file in (PACKAGE / "search").glob("*.py") if file.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; print({{'basicsr', 'cv2', 'kornia', 'lmdb'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_the_searcher_knows_no_space() -> None:
    for file in (PACKAGE / "search").glob("*.py"):
        text = file.read_text(encoding="utf-8").lower()
        assert not any(space in text for space in ("imdn", "dlsr", "nasbench")), f"{file.name} mentions a space"
