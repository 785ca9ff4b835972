"""Fetching over lines that break, from servers that lie, and around servers that do not answer."""

from __future__ import annotations

import errno
import hashlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.preparation.catalog import DIV2K_ADDRESS, SETS, Archive
from sr_nas.preparation.download import obtain
from tests.preparation.server import Site, serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB, more than one block
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(CONTENT)) as running:
        yield running


def fetch(site: Site, folder: Path, size: int | None = len(CONTENT), checksum: str | None = SHA256, url: str = "") -> Path:
    archive = Archive("set.zip", url or site.url, size, checksum)
    return obtain(archive, folder, "HR/ with 5 images", lambda done, total: None, lambda seconds: None)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_fetched_whole_and_nothing_else_stays(site: Site, tmp_path: Path) -> None:
    assert fetch(site, tmp_path / "new").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["set.zip"]
    fetch(site, tmp_path / "new")
    assert len(site.asked) == 1


def test_progress_ends_at_the_whole_size(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    obtain(Archive("set.zip", site.url, None, None), tmp_path, "", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_connection_that_drops_is_gone_on_from_there(site: Site, tmp_path: Path) -> None:
    site.drops = [2_000_000, 1_000_000, 0, None]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [(None, None), *[(f"bytes={start}-", '"one"') for start in (2_000_000, 3_000_000, 3_000_000)]]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.drops = [3_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match="broke off"):
        fetch(site, tmp_path)
    assert names(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    site.asked.clear()
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == [("bytes=3000000-", '"one"')]
    assert names(tmp_path) == ["set.zip"]


def test_without_ranges_it_begins_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [2_000_000, None]
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_without_ranges_a_line_that_always_breaks_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [2_000_000] * 50
    with pytest.raises(UserError, match="broke off after 2,000,000 of 5,120,000 bytes"):
        fetch(site, tmp_path)
    assert len(site.asked) == 6


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(site: Site, tmp_path: Path) -> None:
    site.drops = [2_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(site, tmp_path, checksum=None)
    site.content, site.etag = CONTENT[::-1], '"two"'
    assert fetch(site, tmp_path, checksum=None).read_bytes() == CONTENT[::-1]


def test_without_validator_and_checksum_nothing_is_gone_on_from(site: Site, tmp_path: Path) -> None:
    site.etag, site.drops = None, [2_000_000, None]
    assert fetch(site, tmp_path, checksum=None).read_bytes() == CONTENT
    assert site.asked == [(None, None), (None, None)]


def test_a_weak_validator_is_none(site: Site, tmp_path: Path) -> None:
    site.etag, site.drops = 'W/"one"', [2_000_000, None]
    fetch(site, tmp_path)
    assert site.asked[1] == ("bytes=2000000-", None)


@pytest.mark.parametrize("rest", [CONTENT[:9], CONTENT + b"more"])
def test_a_file_of_another_size_is_not_taken(site: Site, tmp_path: Path, rest: bytes) -> None:
    site.content = rest
    with pytest.raises(UserError, match=r"has [\d,]+ bytes now, the published archive 5,120,000"):
        fetch(site, tmp_path)
    assert "set.zip" not in names(tmp_path)
    assert len(site.asked) == 1


def test_a_file_of_another_content_is_not_taken_nor_kept(site: Site, tmp_path: Path) -> None:
    site.content = CONTENT[::-1]
    with pytest.raises(UserError, match="its SHA256 is"):
        fetch(site, tmp_path)
    assert names(tmp_path) == []
    assert len(site.asked) == 1


def test_an_md5_is_checked_too(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path, checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    with pytest.raises(UserError, match="its MD5 is"):
        fetch(site, tmp_path / "other", checksum="md5:00")


def test_a_leftover_that_is_longer_than_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(site, tmp_path, size=None).read_bytes() == CONTENT
    assert [asked for asked, _ in site.asked] == ["bytes=5120004-", None]


def test_a_page_that_is_missing_says_what_to_do_by_hand(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(UserError) as error:
        fetch(site, tmp_path)
    for told in ("404 Not Found", site.url, str(tmp_path / "set.zip"), "HR/ with 5 images", "5 MB"):
        assert told in str(error.value)
    assert len(site.asked) == 1


def test_a_page_of_a_login_costs_nothing_of_what_was_fetched(site: Site, tmp_path: Path) -> None:
    site.drops = [3_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(site, tmp_path, size=None)
    site.kind, site.ranges = "text/html; charset=utf-8", False
    with pytest.raises(UserError, match="a web page instead of the file"):
        fetch(site, tmp_path, size=None)
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[:3_000_000]


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_without_a_network_it_says_what_to_do_by_hand(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/set.zip"
    with pytest.raises(UserError, match=r"no connection \((.|\n)*put it at"):
        fetch(site, tmp_path, url=url)


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_nas.preparation.download.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out"):
        fetch(Site(b""), tmp_path, url=f"http://127.0.0.1:{silent.getsockname()[1]}/set.zip")


def test_a_file_put_there_by_hand_is_taken_or_refused_but_never_removed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(CONTENT)
    assert fetch(site, tmp_path) == tmp_path / "set.zip"
    (tmp_path / "set.zip").write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match="is not the published archive: its SHA256"):
        fetch(site, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT[::-1]
    assert site.asked == []


def test_a_disk_that_is_too_small_is_said_before(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="needs 5,120,000 bytes more"):
        fetch(site, tmp_path)


def test_the_addresses_of_div2k() -> None:
    """Sizes in all: 800 and 100 images, HR and three scales, 5.8 GB; every archive has its SHA-256."""
    parts = SETS["div2k"]
    assert [part.folder for part in parts if part.split == "train"] == [
        "DIV2K/DIV2K_train_HR",
        *[f"DIV2K/DIV2K_train_LR_bicubic/X{scale}" for scale in (2, 3, 4)],
    ]
    assert sum(part.archive.size or 0 for part in parts) == 5_783_532_392
    for part in parts:
        assert part.archive.url == f"{DIV2K_ADDRESS}/{part.archive.name}"
        assert len(part.archive.checksum or "") == len("sha256:") + 64


@pytest.mark.parametrize("error", [ssl.SSLError("bad record mac"), OSError(errno.ENETUNREACH, "Network is unreachable")])
def test_whatever_breaks_the_line_is_tried_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    read, calls = http.client.HTTPResponse.read, iter(range(1000))

    def breaking(self: http.client.HTTPResponse, amount: int | None = None) -> bytes:
        if next(calls) == 2:
            raise error
        return read(self, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaking)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert [asked for asked, _ in site.asked] == [None, f"bytes={2 << 20}-"]


def test_a_part_that_is_whole_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert fetch(site, tmp_path, size=None).read_bytes() == CONTENT
    assert [asked for asked, _ in site.asked] == ["bytes=5120000-"]
