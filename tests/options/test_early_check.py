"""What is wrong with an option file is told before PyTorch is imported, as far as the files of the project tell it."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest

from sr_nas import registry as registries
from sr_nas.options.load import UNSEEN
from sr_nas.options.outline import outline
from sr_nas.options.strict import Component
from sr_nas.registry import Registry
from tests.conftest import REPOSITORY
from tests.options.test_option_files import FOLDER, SHIPPED, refused

HEAVY = ("torch", "cv2", "PIL", "fvcore", "kornia", "matplotlib", "safetensors", "skimage", "basicsr", "lmdb", "rich")
ALL = {name: value for name, value in vars(registries).items() if isinstance(value, Registry) and name != "COSTS"}

CHECK = """
import sys
from sr_nas.errors import UserError
from sr_nas.options.load import check_early
from sr_nas.options.tasks import SEARCHES, TRAININGS
for words in {calls!r}:
    kind, *words = words
    try:
        check_early({{"search": SEARCHES, "train": TRAININGS}}[kind], words[0], words[1:])
        print("fine")
    except UserError as error:
        print(error)
    print("====")
print([name for name in {heavy!r} if name in sys.modules])
"""


def early(*calls: tuple[str, ...]) -> list[str]:
    """What a process says that has imported nothing yet, and at the end which heavy packages it has imported."""
    code = CHECK.format(calls=list(calls), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout.split("\n====\n")


def test_what_is_found_reads_as_the_full_check_has_it_and_nothing_heavy_is_imported() -> None:
    overrides = [
        "scael=2",
        "search:foo=1",
        "search:epochs=fast",
        "search:flops_wieght=1",
        "search:regularizer:nuu=1",
        "search:regularizer:on_inputs=7",
        "search:alpha:optim:lrr=1",
        "datasets:train:gt_size=-1",
        "datasets:train={type: folder}",
        "network_g:type=IMDM",
        "train:pixel_opt:type=L2Loss",
    ]
    *found, imported = early(*[("search", "options/sac_imdn.yml", override) for override in overrides])
    assert imported.strip() == "[]"
    for override, text in zip(overrides, found, strict=True):
        assert text.replace("options/", f"{FOLDER}/") == f"{refused(override)}\n{UNSEEN}", override


def test_what_is_right_passes() -> None:
    """Of every shipped file; folders that it names need not exist here."""
    files = [("train" if "train" in file.stem else "search", str(file)) for file in SHIPPED if file.stem != "benchmark"]
    *found, imported = early(*files, ("train", "options/train_imdn.yml", "network_g={type: basicsr.EDSR, any: 1}"))
    problems = [line for text in found for line in text.splitlines()[1:] if line.startswith("  ")]
    assert imported.strip() == "[]"
    assert all("does not exist" in problem for problem in problems), problems
    assert sum(text == "fine" for text in found) > len(files) / 3


def test_the_commands_import_nothing_heavy_for_an_option_error() -> None:
    code = (
        "import sys; from sr_nas.cli import main\n"
        "codes = [main([kind, '-opt', f'options/{name}.yml', '--force_yml', 'train:optim_g:foo=1'])"
        " for kind, name in (('search', 'sac_imdn'), ('train', 'train_imdn'))]\n"
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[1, 1] []"
    assert done.stderr.count("train.optim_g.foo: unknown key") == 2


@pytest.mark.parametrize("name", ALL)
def test_the_source_tells_what_signatures_tell(name: str) -> None:
    registry = ALL[name]
    found = outline(registry)
    assert found.complete
    assert list(found.entries) == registry.names()
    for entry, arguments in found.entries.items():
        fields = {key: field.is_required() for key, field in registry.settings(entry, Component).model_fields.items()}
        assert arguments == {key: needed for key, needed in fields.items() if key != "type"}, entry


def test_what_the_source_does_not_tell_is_left_to_the_full_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entries_of_a_test.py").write_text(
        "from sr_nas.registry import OF_A_TEST\n"
        "@OF_A_TEST.register()\ndef plain(x, /, a, b=1, *, c, d=2): ...\n"
        "@OF_A_TEST.register('named')\nclass Inherits(plain): ...\n"
        "@OF_A_TEST.register()\ndef anything(**more): ...\n"
        "OF_A_TEST.register('later')(lambda: None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[typing.Any] = Registry("thing", "entries_of_a_test", supplied=("x",))
    monkeypatch.setattr(registries, "OF_A_TEST", registry, raising=False)
    found = outline(registry)
    assert found.entries == {"plain": {"a": True, "b": False, "c": True, "d": False}, "named": None, "anything": None}
    assert not found.complete
