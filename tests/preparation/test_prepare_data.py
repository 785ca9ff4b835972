"""``prepare_data``, from its words to what it prints and writes."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from preparation.catalog import SETS, Archive

from sr_nas.images.files import read_rgb
from tests.jobs.processes import ENVIRONMENT, command
from tests.preparation.images import contents, make_set5, packed, run_tool, save
from tests.preparation.server import Site, serving


def test_sets_are_fetched_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "datasets"
    with serving(Site(packed(make_set5(tmp_path / "made"), "benchmark/Set5"))) as site:
        checksum = f"sha256:{hashlib.sha256(site.content).hexdigest()}"
        archive = Archive("benchmark.tar", site.url, len(site.content), checksum)
        monkeypatch.setitem(SETS, "set5", tuple(replace(part, archive=archive) for part in SETS["set5"]))
        printed = run_tool("set5", "--root", root, "--scales", "2", "4")
        assert f"{root}/Set5/LR_matlab/x4: 5 images written" in printed
        assert "LR_matlab/x3" not in printed
        assert len(site.ranges_asked) == 1
    assert f"{root}/Set5/HR: there already" in run_tool("set5", "--root", root, "--hr_only")
    assert "nothing is wrong" in run_tool("check", root / "Set5", "--workers", "1")
    (root / "Set5/HR/baby.png").unlink()
    assert f"{root}/Set5/HR: 1 images written, 4 kept" in run_tool("set5", "--root", root, "--hr_only")


def test_without_a_network_it_names_address_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("preparation.download.RETRIES", 0)
    printed = run_tool("urban100", "b100", "--root", tmp_path, "--scales", "4", code=1)
    for words in (
        "cannot fetch benchmark.tar",
        "https://cv.snu.ac.kr/research/EDSR/benchmark.tar",
        f"{tmp_path}/archives/benchmark.tar",
    ):
        assert words in printed


def test_from_hr_images_to_sub_images_and_lmdb(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"hr/{number:04}.png", 49, 75, number)
    words = ["--scales", "2", "3", "--workers", "1"]
    assert "4 images written to" in run_tool("lr", tmp_path / "hr", "-o", tmp_path / "lr", *words)
    assert "4 kept" in run_tool("lr", tmp_path / "hr", "-o", tmp_path / "lr", *words)
    cut = ["crop", tmp_path / "hr", "--lr", tmp_path / "lr", "-o", tmp_path / "sub", *words]
    assert "--size 50 must be a multiple of 6" in run_tool(*cut, "--size", "50", code=1)
    assert "72 images written" in run_tool(*cut, "--size", "24", "--step", "18")
    pack = ["lmdb", tmp_path / "sub/LR/X2", "-o", tmp_path / "x2.lmdb", "--workers", "1"]
    assert "x2.lmdb: 24 images\n" in run_tool(*pack)
    assert "x2.lmdb exists" in run_tool(*pack, code=1)


def test_check_prints_what_is_wrong_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36, 1)
    save(tmp_path / "hr/b.png", 24, 36, 2)
    save(tmp_path / "hr/copy.png", 24, 36, 2)
    save(tmp_path / "lr/a.png", 12, 19)
    save(tmp_path / "lr/c.png", 12, 18)
    (tmp_path / "lr/b.png").write_bytes(b"")
    printed = run_tool("check", tmp_path / "hr", "--lr", tmp_path / "lr", "--scale", "2", "--workers", "1", code=1)
    for words in (
        "hr HR: 3 images",
        "cannot be read: 1\n",
        "HR without LR: 1\n  copy\n",
        "LR without HR: 1\n  c\n",
        "a.png has 19x12, expected 18x12",
        f"{tmp_path}/hr/b.png and {tmp_path}/hr/copy.png: every pixel",
    ):
        assert words in printed
    assert "--lr and --scale go together" in run_tool("check", tmp_path / "hr", "--lr", tmp_path / "lr", code=1)


def test_lr_that_was_made_beside_hr_is_found(tmp_path: Path) -> None:
    save(tmp_path / "Set5/HR/a.png")
    check = ["check", tmp_path / "Set5", "--workers", "1"]
    assert "Set5 HR: 1 images, no LR" in run_tool(*check)
    run_tool("lr", tmp_path / "Set5/HR", "-o", tmp_path / "Set5/LR_matlab", "--scales", "2", "--workers", "1")
    assert "Set5 x2: 1 images" in run_tool(*check)


@pytest.mark.slow
def test_killed_in_the_middle_it_leaves_whole_images_and_goes_on(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / f"hr/{number:02}.png", 120, 160, number)
    words = command("prepare_data", "lr", tmp_path / "hr", "-o", tmp_path / "lr", "--scales", "2", "--workers", "1")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and not list((tmp_path / "lr").glob("X2/[0-9]*.png")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    done = list((tmp_path / "lr/X2").glob("[0-9]*.png"))
    assert 0 < len(done) < 40
    for file in done:
        assert read_rgb(file).shape == (60, 80, 3)
    printed = run_tool("lr", tmp_path / "hr", "-o", tmp_path / "lr", "--scales", "2", "--workers", "1")
    assert f"{40 - len(done)} images written" in printed
    assert [name for name in contents(tmp_path / "lr/X2") if name[0] != "."] == [f"{number:02}x2.png" for number in range(40)]


def test_words_that_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["set6"], ["set5", "set6"], ["lr", "x", "-o", "y", "--workers", "0"], []):
        with pytest.raises(SystemExit) as error:
            run_tool(*words)
        assert error.value.code == 2
