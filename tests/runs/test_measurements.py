"""Measurements that outlive the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.jobs.model_table import MEASUREMENTS, digest, file_digest, measurements


def test_what_was_added_is_there_again_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    with measurements(tmp_path) as kept:
        assert kept.get("a") is None
        kept.add("a", {"psnr": 1.5})
        kept.add("b", {"psnr": float("inf")})
        kept.add("a", {"psnr": 2.5})
    with measurements(tmp_path) as kept:
        assert (kept.get("a"), kept.get("b")) == ({"psnr": 2.5}, {"psnr": float("inf")})


def test_half_a_line_is_dropped_and_the_next_stands_alone(tmp_path: Path) -> None:
    (tmp_path / MEASUREMENTS).write_text('{"key": "a", "psnr": 1}\n{"key": "b", "ps')
    with measurements(tmp_path) as kept:
        assert kept.get("b") is None
        kept.add("c", {"psnr": 3})
    assert (tmp_path / MEASUREMENTS).read_text() == '{"key": "a", "psnr": 1}\n{"key": "c", "psnr": 3}\n'


@pytest.mark.parametrize("line", ["{", "[1]", '{"psnr": 1}', "3"])
def test_a_damaged_line_is_no_measurement(tmp_path: Path, line: str) -> None:
    (tmp_path / MEASUREMENTS).write_text(f'{line}\n{{"key": "a"}}\n')
    with pytest.raises(UserError, match="is damaged"), measurements(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock")
def test_only_one_process_measures_in_a_folder(tmp_path: Path) -> None:
    imports = "from pathlib import Path\nfrom sr_nas.jobs.model_table import measurements\n"
    code = f"{imports}with measurements(Path({str(tmp_path)!r})): pass"
    with measurements(tmp_path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is measuring" in done.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_digests_differ_where_what_they_are_of_does(tmp_path: Path) -> None:
    assert digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})
    assert len({digest("ab"), digest("a", "b"), digest(["a", "b"]), digest("a", None), digest("a", 1), digest("a", True)}) == 6
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(UserError, match="cannot be read"):
        file_digest(tmp_path)
