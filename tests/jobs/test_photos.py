"""Photos as people have them, split and made ready."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.jobs import photos
from sr_nas.jobs.photos import prepare


def picture(seed: int, height: int = 144, width: int = 136) -> np.ndarray:
    """A picture of coarse random patches, so that pHash tells two of them apart."""
    patches = np.random.default_rng(seed).integers(0, 256, (9, 9, 3))
    return np.kron(patches, np.ones((-(-height // 9), -(-width // 9), 1)))[:height, :width].astype(np.uint8)


def folder_of(place: Path, count: int) -> list[Path]:
    files = [place / ("below" if number % 3 else "") / f"{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        write_image(file, picture(number))
    return files


def test_a_photo_like_a_line_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "LARGE", 4000)
    files = folder_of(tmp_path, 4)
    write_image(line := tmp_path / "line.png", picture(9, 1, 5000))
    content = prepare(tmp_path, [*files, line], tmp_path / "out", lambda: False)
    assert content is not None and content["left_out"] == {str(line): "it has 5000x1 pixels, and 128 a side are needed"}


def test_the_split_is_by_the_hashes_of_the_names(tmp_path: Path) -> None:
    files = folder_of(tmp_path / "photos", 20)
    before = {file: file.read_bytes() for file in files}
    random.Random(0).shuffle(files)
    content = prepare(tmp_path / "photos", files, tmp_path / "out", lambda: False)
    assert content is not None
    # by hand: in the order of hashes every eighth, from the first and from the second on
    names = [file.relative_to(tmp_path / "photos").as_posix() for file in files]
    ordered = [str(tmp_path / "photos" / name) for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())]
    assert list(content["kept_out"]) == [ordered[0], ordered[8], ordered[16]]
    assert list(content["judge"]) == [ordered[1], ordered[9], ordered[17]]
    assert list(content["train"]) == [name for place, name in enumerate(ordered) if place % 8 > 1]
    assert content["left_out"] == {}
    for role in photos.ROLES:
        written = {file.name: file for file in (tmp_path / "out" / role).iterdir()}
        assert sorted(written) == sorted(content[role].values())
        for source, name in content[role].items():
            np.testing.assert_array_equal(read_rgb(written[name]), read_rgb(Path(source)))
    assert {file: file.read_bytes() for file in (tmp_path / "photos").rglob("*.png")} == before


def test_at_most_eight_are_kept_out_of_many() -> None:
    roles = [photos.role_of(number) for number in range(2000)]
    assert [roles.count(role) for role in photos.ROLES] == [8, 8, 1984]
    assert [photos.role_of(number) for number in range(4)] == ["kept_out", "judge", "train", "train"]


def test_what_is_of_no_use_is_named_and_left_out(tmp_path: Path) -> None:
    files = folder_of(tmp_path, 4)
    more = {name: tmp_path / name for name in ("twin.jpg", "tiny.png", "damaged.png", "flat.png")}
    write_image(more["twin.jpg"], downscale(picture(2, 288, 272), 2)[:140, :130], quality=60)
    write_image(more["tiny.png"], picture(9, 127, 500))
    more["damaged.png"].write_bytes(files[0].read_bytes()[:-100])
    write_image(more["flat.png"], np.full((200, 200, 3), 90, np.uint8))
    content = prepare(tmp_path, [*files, *more.values()], tmp_path / "out", lambda: False)
    assert content is not None
    reasons = {Path(name).name: why for name, why in content["left_out"].items()}
    assert sum(len(content[role]) for role in photos.ROLES) == 4
    assert "500x127 pixels" in reasons["tiny.png"] and "one colour" in reasons["flat.png"] and "damaged" in reasons["damaged.png"]
    assert len(reasons) == 4 and len({"twin.jpg", "2.png"} & set(reasons)) == 1  # the second one in the order of hashes


def test_large_photos_are_halved_and_the_judges_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "LARGE", 150 * 150)
    monkeypatch.setattr(photos, "CROP", 100)
    for number in range(4):
        write_image(tmp_path / f"{number}.png", picture(number, 271, 264))
    content = prepare(tmp_path, sorted(tmp_path.glob("*.png")), tmp_path / "out", lambda: False)
    assert content is not None
    for role in photos.ROLES:
        for source, name in content[role].items():
            expected = downscale(read_rgb(Path(source)), 2)
            assert expected.shape == (135, 132, 3)
            expected = expected[17:117, 16:116] if role == "judge" else expected
            np.testing.assert_array_equal(read_rgb(tmp_path / "out" / role / name), expected)


def test_it_ends_where_there_are_enough_pixels_and_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = folder_of(tmp_path, 12)
    monkeypatch.setattr(photos, "cores", lambda: 1)  # two at a time
    monkeypatch.setattr(photos, "ENOUGH", 144 * 136 * 3)
    content = prepare(tmp_path, files, tmp_path / "out", lambda: False)
    assert content is not None and [len(content[role]) for role in photos.ROLES] == [1, 1, 4]
    assert prepare(tmp_path, files, tmp_path / "out", lambda: True) is None


def test_too_few_photos(tmp_path: Path) -> None:
    files = folder_of(tmp_path, 3)
    (tmp_path / "4.png").touch()
    with pytest.raises(UserError, match=r"4 photos .* needed, and 3 can be used\.\n  .*4\.png: the file is empty"):
        prepare(tmp_path, [*files, tmp_path / "4.png"], tmp_path / "out", lambda: False)
