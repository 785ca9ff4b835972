"""Options that name files and folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from sr_nas.errors import UserError
from sr_nas.export.model import load_structure
from sr_nas.options.strict import ExistingFile, ExistingFolder, describe_missing


class Settings(BaseModel):
    folder: ExistingFolder | None = None
    file: ExistingFile | None = None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "train_HR").mkdir()
    (tmp_path / "weights.pth").touch()
    return tmp_path


def test_what_exists_is_accepted(place: Path) -> None:
    settings = Settings(folder=str(place / "train_HR"), file=str(place / "weights.pth"))
    assert (settings.folder, settings.file) == (str(place / "train_HR"), str(place / "weights.pth"))


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("folder", "train_LR", r"folder '.*train_LR' does not exist - did you mean 'train_HR'\?"),
        ("folder", "train_HT/x2/0", r"does not exist: there is no '.*train_HT' - did you mean 'train_HR'\?"),
        ("folder", "weights.pth/x2", r"folder '.*x2' does not exist"),
        ("folder", "weights.pth", "is a file, but a folder is expected"),
        ("file", "wieghts.pth", r"file '.*wieghts\.pth' does not exist - did you mean 'weights\.pth'\?"),
        ("file", "train_HR", "is a folder, but a file is expected"),
    ],
)
def test_what_does_not_exist_is_explained_unless_nobody_asked(place: Path, option: str, name: str, message: str) -> None:
    given = {option: str(place / name)}
    for context in (None, {}, {"check_files": True}):
        with pytest.raises(ValidationError, match=message):
            Settings.model_validate(given, context=context)
    assert getattr(Settings.model_validate(given, context={"check_files": False}), option) == str(place / name)


def test_a_relative_name_without_a_neighbour_like_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(ValidationError, match=r"folder 'zzz' does not exist\. \["):
        Settings(folder="zzz")


def test_the_tilde_is_expanded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert Settings(folder="~/train_HR").folder == str(place / "train_HR")


def test_an_empty_name_is_no_path() -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        Settings(folder="")


def test_a_data_set_that_is_not_there_says_what_fetches_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(ValidationError, match=r"'datasets/CIFAR-10' does not exist.*tools/prepare_data\.py fetches"):
        Settings(folder="datasets/CIFAR-10")
    with pytest.raises(ValidationError) as caught:
        Settings(folder="elsewhere/CIFAR-10")
    assert "prepare_data" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pth", "net.onnx", "genotype.json", "train.yml"])
def test_links_that_lead_nowhere_are_called_that(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(UserError, match=rf"{name} is a link to gone, which is not there\.$"):
        load_structure(tmp_path / name)
    text = describe_missing(tmp_path / name, "file")
    assert text.endswith(f"{name}' is a link to gone, which is not there.")
