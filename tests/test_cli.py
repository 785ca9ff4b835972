"""``sr-nas``: its help, and what it says where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_nas.cli import COMMANDS, main, with_errors_printed
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_SEARCH, run


def test_the_help_of_every_command_needs_no_torch() -> None:
    code = (
        "import sys\nfrom sr_nas.cli import main\n"
        f"for name in {list(COMMANDS)}:\n"
        "    try: main([name, '--help'])\n    except SystemExit: pass\n"
        "print(not {'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.endswith("True\n")
    for name in COMMANDS:
        assert f"usage: {name}" in printed
        assert f'tool("{name}")' in (REPOSITORY / "tools" / f"{name}.py").read_text()


@pytest.mark.parametrize("words", [["search", "-opt", "x", "--nf", "3"], ["train"], ["evaluate", "--tile", "x"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert "did you mean 'search'?" in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_a_search_option_file_for_the_wrong_tool() -> None:
    printed = run("train", "-opt", REPOSITORY / "options" / "sac_imdn.yml", code=1)
    assert "the key 'search' makes it an option file of tools/search.py" in printed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    printed = run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path / 'runs'}", code=1)
    assert "Permission denied" in printed


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    printed = run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path / 'runs'}", code=1)
    assert "File exists" in printed


def test_exhausted_memory_is_a_message_and_a_bug_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    def exhausted() -> int:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")

    assert with_errors_printed("evaluate", exhausted) == 1
    assert capsys.readouterr().err.startswith("evaluate: the memory does not suffice.")

    def wrong() -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        with_errors_printed("evaluate", wrong)
