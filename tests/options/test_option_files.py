"""Reading option files: what is shipped, what is inherited, what is refused and how."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from option_schema import schema_text

from sr_nas.analysis.model_table import BenchmarkOptions
from sr_nas.cli import main
from sr_nas.errors import UserError
from sr_nas.options.load import OptionLoader, differences, dump_options, dump_yaml, load_options, parse_yaml, read_options
from sr_nas.options.sections import SearchOptions, TrainOptions
from sr_nas.registry import NETWORKS
from sr_nas.task import search_options, training_options
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "options"
# Those in options/basicsr are in BasicSR's words.
OURS = [file for file in sorted(FOLDER.rglob("*.yml")) if file.parent.name != "basicsr"]
SHIPPED = [file for file in OURS if file.parent.name != "base"]
SAC, TRAIN = FOLDER / "sac_imdn.yml", FOLDER / "train_imdn.yml"
SCHEMA = schema_text()
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA))
"""Another implementation of JSON schema, as an editor has one."""


def refused(*overrides: str, file: Path = SAC, model: type = SearchOptions) -> str:
    with pytest.raises(UserError) as caught:
        load_options(model, file, overrides)
    return str(caught.value)


def test_what_the_readme_promises_is_shipped() -> None:
    searches = [f"{method}_{space}" for space in ("imdn", "dlsr") for method in ("beta", "sa", "sac")]
    searches += ["darts_imdn", "dlsr", "beta_imdn_flops", "sac_imdn_flops"]
    trainings = {f"train_{name}" for name in searches if name not in ("darts_imdn", "sa_imdn")} | {"train_imdn"}
    here, paper = ({file.stem for file in folder.glob("*.yml")} for folder in (FOLDER, FOLDER / "paper"))
    assert here >= {
        *searches,
        "snas_imdn",
        "random_imdn",
        "random_sharing_imdn",
        "evolution_imdn",
        "train_imdn",
        "train_dlsr",
        "benchmark",
    }
    assert paper >= {*searches} | trainings


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(FOLDER)))
def test_shipped_files_load_and_dump_and_load_again(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = BenchmarkOptions if file.stem == "benchmark" else training_options if "train" in file.stem else search_options
    options = load_options(model, file, check_files=False)
    assert not caplog.records, "a type is changed and a key that both types have is not said again"
    copy = tmp_path / "copy.yml"
    copy.write_text(dump_options(options))
    assert load_options(model, copy, check_files=False) == options


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(FOLDER)))
def test_the_first_line_leads_to_the_schema(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (file.parent / first.split("=", 1)[1]).resolve() == FOLDER / "schema.json"


WITH_SA = [file for file in SHIPPED if (file.parent / f"{file.stem.removeprefix('sa_')}.yml") in SHIPPED and "sa_" in file.stem]
NEW = ("gdas", "drnas", "fairdarts", "sdarts", "snas_single", "udarts")


@pytest.mark.parametrize("file", [file for file in WITH_SA if any(name in file.stem for name in NEW)], ids=lambda file: file.stem)
def test_smooth_activation_is_all_that_a_method_with_it_adds(file: Path) -> None:
    plain, with_sa = (
        load_options(search_options, file.parent / f"{stem}.yml", check_files=False).model_dump(mode="json")
        for stem in (file.stem.removeprefix("sa_"), file.stem)
    )
    changed = [line.split(":")[0] for line in differences(plain, with_sa)]
    decay = ["search.alpha.optim.weight_decay"] if plain["search"]["alpha"]["optim"]["weight_decay"] else []
    assert [key for key in changed if not key.startswith("search.regularizer")] == ["name", *decay]
    assert with_sa["search"]["regularizer"]["type"] == "sa" and with_sa["search"]["alpha"]["optim"]["weight_decay"] == 0


def test_the_schema_is_current() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    assert (FOLDER / "schema.json").read_text() == SCHEMA, "renew: python tools/option_schema.py > options/schema.json"


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(FOLDER)))
def test_the_schema_accepts_the_files_as_they_are_written(file: Path) -> None:
    written = yaml.load(file.read_text(), Loader=OptionLoader)
    VALIDATOR.validate(written)
    assert not VALIDATOR.is_valid(written | {"scael": 2})


def test_the_schema_knows_the_keys_of_every_type() -> None:
    for key in ("partial_channel", "nu", "slope", "dataroot_gt", "milestones", "flops_weight", "_base_", "held_out"):
        assert f'"{key}"' in SCHEMA, key


def test_the_schema_takes_further_validation_sets_and_nothing_else() -> None:
    sample = {"type": "sample"}
    VALIDATOR.validate({"datasets": {"train": sample, "val_2": sample, "validation": None}})
    for wrong in ({"vla": sample}, {"val_2": {"type": "smaple"}}, {"val_2": sample | {"hold_out": True}}):
        assert not VALIDATOR.is_valid({"datasets": wrong})


def test_an_unknown_key_is_named_with_its_path_and_the_nearest() -> None:
    text = refused("search:regularizer:nuu=1")
    assert "1 problem" in text
    assert "search.regularizer.nuu: unknown key - did you mean 'nu'? Allowed: type, schedule, on_inputs, nu, mu." in text


def test_all_problems_are_told_at_once() -> None:
    text = refused("scael=2", "train:optim_g:lr=fast", "network_g:partial_channel=3", "datasets:train:type=smaple", "num_gpu=2")
    assert "5 problems" in text
    assert "scael: unknown key - did you mean 'scale'?" in text
    assert "train.optim_g.lr: a number is expected" in text
    assert "network_g: partial_channel 3 must divide nf/4 = 8" in text
    assert "datasets.train: unknown data set 'smaple' - did you mean 'sample'? Allowed: " in text
    assert "num_gpu" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search:order=secnd", "search.order: Input should be 'first' or 'second'"),
        ("search:warmup_epochs=20", "warmup_epochs 20 leaves none of the 20 epochs for alpha"),
        ("search:xi=0.1", "xi belongs to order: second"),
        ("search:hessian=finite_difference", "hessian belongs to order: second"),
        ("search:look_ahead=sgd", "look_ahead belongs to order: second"),
        ("search={order: second, look_ahead: sgd}", "search.look_ahead: sgd needs train.optim_g of type SGD, not Adam"),
        ("search={level: single, alpha_loss: train+val}", "level: single has one step for alpha and weights"),
        ("search:perturbation=randm", "unknown perturbation 'randm' - did you mean 'random'?"),
        ("datasets:train:gt_size=33", "datasets.train.gt_size 33 is not a multiple of the scale 2"),
        ("network_g:candidates=[conv_3x3, conv_9x9]", "unknown IMDN candidate 'conv_9x9' - did you mean 'conv_5x5'?"),
        ("network_g:type=IMDM", "unknown search space 'IMDM' - did you mean 'IMDN'?"),
        ("network_g:nf=18", "network_g.nf: Input should be a multiple of 4"),
        ("search:regularizer=says", "unknown regularizer 'says' - did you mean 'sa'? Allowed: "),
        ("scale=5", "scale: Input should be 2, 3 or 4 (found 5)"),
        ("scale=true", "scale: Input should be 2, 3 or 4 (found True)"),
        ("num_gpu=true", "num_gpu: a number is expected, not true or false (found True)"),
        *(
            (f"num_threads={value}", "num_threads: Input should be auto or a whole number from 1 to 1024 (found ")
            for value in ("0", "-1", "1.5", "many", "1025", "null", "[1]", "1e3")
        ),
        ("num_threads=true", "num_threads: a number is expected, not true or false"),
        ("datasets:train:gt_size=true", "datasets.train.gt_size: a number is expected, not true or false"),
        ("datasets:train:num_worker_per_gpu=false", "datasets.train.num_worker_per_gpu: a number is expected, not true"),
        ("train:optim_g:lr=true", "train.optim_g.lr: a number is expected, not true or false"),
        ("train:optim_g:betas=[false, 0.9]", "train.optim_g.betas: a number is expected, not true or false"),
        ("search:alpha:offset={conv_3x3: true}", "search.alpha.offset: a number is expected, not true or false"),
        ("network_g:nf=true", "network_g.nf: Input should be a multiple of 4 (found True)"),
        ("train:optim_g:lr:x=1", "train.optim_g.lr: a number is expected (found {'x': 1})"),
        ("name=../elsewhere", "name: letters, digits and . _ + - make it up"),
        ("search:flops_weight=-1", "search.flops_weight: Input should be greater than or equal to 0"),
        ("datasets:train={type: folder}", "datasets.train.dataroot_gt: this key is required"),
        ("datasets:train={type: folder, dataroot_gt: nowhere}", "folder 'nowhere' does not exist"),
    ],
)
def test_wrong_values(override: str, words: str) -> None:
    assert words in refused(override)


def test_a_typo_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "-opt", str(SAC), "--force_yml", "serch:epochs=1"]) == 1
    error = capsys.readouterr().err
    assert "serch: unknown key - did you mean 'search'?" in error and "Traceback" not in error


def test_scientific_notation_is_a_number() -> None:
    options = load_options(SearchOptions, SAC, ["train:optim_g:lr=1e-4", "search:flops_weight=2e1"])
    assert options.train.optim_g.arguments()["lr"] == 1e-4
    assert options.search.costs() == {"flops": 20.0}


@pytest.mark.parametrize("text", ["1e-4", "1E5", "-2e+3", ".5e1", "3.e2", "1.5e-8"])
def test_every_spelling_of_a_number(text: str) -> None:
    assert yaml.load(text, Loader=OptionLoader) == float(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("+12", 12),
        ("0x1F", 31),
        ("0777", 777),
        ("014", 14),
        ("0o777", 511),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("0x_", "0x_"),
        ("2024-01-01", "2024-01-01"),
        ("2024-31-12", "2024-31-12"),
        ("2001-12-14t21:59:43.10+99:00", "2001-12-14t21:59:43.10+99:00"),
        ("=", "="),
        ("!!float 12", 12.0),
        ("!!int 0777", 777),
        ("!!str 12", "12"),
        ("[.inf, -.INF]", [float("inf"), -float("inf")]),
        ("1e", "1e"),
        ("e5", "e5"),
        ("2026-11-24x", "2026-11-24x"),
        ("1.5", 1.5),
        ("off", "off"),
        ("true", True),
        ("no", "no"),
    ],
)
def test_nothing_else_became_a_number(text: str, value: object) -> None:
    assert yaml.load(text, Loader=OptionLoader) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!int twelve", "column 4: 'twelve' is not a whole number"),
        ("!!int 1e5", "column 4: '1e5' is not a whole number"),
        ("!!int 0x_", "column 4: '0x_' is not a whole number"),
        ("!!float abc", "column 4: 'abc' is not a number"),
        ("!!bool maybe", "column 4: 'maybe' is not true or false"),
        ("!!null x", "column 4: 'x' is not null"),
        ("9223372036854775808", "column 4: '9223372036854775808' is not a whole number below 2^63"),
        ("1" + "0" * 5000, "column 4: '1000"),
        ("0x" + "f" * 5000, "column 4: '0xff"),
        ("!!timestamp 2024-01-01", "column 4: the tag !!timestamp is not read here, only !!null, "),
        ("!!binary aGVsbG8=", "column 4: the tag !!binary is"),
        ("!!set {x}", "column 4: the tag !!set is"),
        ("!!omap [x: 1]", "column 4: the tag !!omap is"),
        ("!!python/object/apply:os.getcwd []", "column 4: the tag !!python/object/apply:os.getcwd is"),
        ("!!map [x, y]", "column 4: expected a mapping node"),
        ("!!map x", "column 4: expected a mapping node"),
        ("!!str [x]", "column 4: expected a scalar node"),
        ("&x [*x]", "column 4: found unconstructable recursive"),
        ("{<<: {1: 2}}", "column 10: 1 is no key: keys are words"),
        ("{2024-01-01: 2, 12: 3}", "column 20: 12 is no key"),
        ("{x: 1, 'x': 2}", "column 11: the key 'x' is given twice"),
        ("<<", "column 4: the tag !!merge"),
        (r'"\0"', "column 4: '\\x00' is not text"),
        (r'"\ud800"', "column 4: '\\ud800' is not text"),
        ("x\x01", "the character '\\x01' may not stand in YAML"),
        ("[" * 3000, "column 43: nested deeper than 40"),
        ("{x: " * 1500, "nested deeper than 40"),
    ],
)
def test_what_yaml_cannot_mean_is_refused_by_its_place(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text(f"b: 1\na: {text}", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_options(file)
    assert str(caught.value).startswith(f"{file}, line 2") and words in str(caught.value) and len(str(caught.value)) < 300
    error = refused(f"train:total_iter={text}", file=TRAIN, model=TrainOptions)
    assert error.startswith(("--force_yml 'train:total_iter=", '--force_yml "train:total_iter=')) and len(error) < 300


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_are_refused_before_they_grow(form: str, tmp_path: Path) -> None:
    lines = ["a0: &a0 {k: v}", *(f"a{i}: &a{i} " + form.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 30))]
    with pytest.raises(UserError, match=r"line \d+, column \d+: more than 20000 values"):
        read_options(write(tmp_path, "bomb.yml", "\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: \xe4", "line 2: not UTF-8"),
        ("a: 1".encode("utf-16"), "line 1: not UTF-8"),
        (b"# \n" * 2**19, "is larger than 1 MiB"),
        (b"a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        (b'a: 1\nb: "\\U00110000"', r"line 2, column \d+: no such character"),
    ],
)
def test_bytes_that_are_no_option_file(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_options(tmp_path / "a.yml")


def test_every_word_survives_the_dump_in_both_versions_of_yaml() -> None:
    words = ["0o777", "1e5", "off", "yes", "2024-01-01", "1:30", "0777", "1_000", "a: b", "~", "=", "<<", "", "0x1F", ".inf", "ü"]
    content = {"words": words, "numbers": [1e-5, 1e22, 0.1, 511, -3, float("inf")], "others": [True, None, {}, []]}
    dumped = dump_yaml(content)
    assert parse_yaml(dumped, "") == content == yaml.safe_load(dumped)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yml")), ids=lambda file: str(file.relative_to(FOLDER)))
def test_shipped_files_mean_the_same_to_another_reader(file: Path) -> None:
    text = file.read_text()
    other = yaml.safe_load(re.sub(r"(?<=[ \[])(-?\d+)(e-\d+)", r"\1.0\2", text).replace("1e6", "1.0e+6"))
    assert parse_yaml(text, file) == other


def test_a_missing_base_names_the_file_that_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    outer = write(tmp_path, "outer.yml", "_base_: inner/a.yml")
    inner = write(tmp_path / "inner", "a.yml", "_base_: gone.yml")
    with pytest.raises(UserError) as caught:
        read_options(outer)
    assert f"option file {tmp_path / 'inner' / 'gone.yml'} does not exist, the _base_ of {inner}" in str(caught.value)
    (tmp_path / "link.yml").symlink_to(inner)
    with pytest.raises(UserError, match=r"gone\.yml does not exist, the _base_ of .*link\.yml, a link to .*inner/a\.yml"):
        read_options(tmp_path / "link.yml")


def test_overrides_reach_new_sections_and_short_forms() -> None:
    overrides = ["logger:print_freq=7", "search:regularizer=beta", "search:regularizer:schedule={type: linear, slope: 2}"]
    options = load_options(SearchOptions, SAC, overrides)
    assert options.logger.print_freq == 7
    assert (options.search.regularizer.type, options.search.regularizer.schedule.arguments()["slope"]) == ("beta", 2)


@pytest.mark.parametrize("override", ["lr", "=3", "a::b=1", "name:x=1:"])
def test_overrides_of_another_form_are_refused(override: str) -> None:
    text = refused(override)
    assert "--force_yml" in text or "name" in text


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def test_inheritance(tmp_path: Path) -> None:
    write(tmp_path, "a.yml", "x: {one: 1, two: 2}\nopt: {type: Adam, betas: [0.5, 0.9]}\nlist: [1, 2]")
    write(tmp_path, "b.yml", "x: {two: 3}\nz: 1")
    file = write(tmp_path, "c.yml", "_base_: [a.yml, b.yml]\nz: 2\nopt: {type: SGD}\nlist: [3]")
    assert read_options(file) == {"x": {"one": 1, "two": 3}, "opt": {"type": "SGD"}, "list": [3], "z": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("_base_: self.yml", "is its own _base_"),
        ("_base_: gone.yml", "gone.yml does not exist"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' is given twice"),
        ("a: {[1]: 2}", "is no key: keys are words"),
        ("a: [1", "line 1"),
        ("a: !!int twelve", "twelve"),
        ("a: " + "[" * 5000, "self.yml"),
        ("- 1", r"a mapping of keys to values, not \[1\]"),
        ("", "a mapping of keys to values, not nothing"),
    ],
)
def test_files_that_are_none(content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_options(write(tmp_path, "self.yml", content))


def test_a_mistyped_file_name() -> None:
    assert "did you mean 'sac_imdn.yml'?" in refused(file=FOLDER / "sac_imnd.yml")


def test_a_genotype_of_a_run_of_a_file_and_inline(tmp_path: Path) -> None:
    names = ["conv_5x5", "conv_3x3_bn", "dsconv_3x3", "conv_3x3"]
    write(
        tmp_path,
        "genotype.json",
        json.dumps({"arch": "IMDN", "genotype": dict(zip(("conv1", "conv2", "conv3", "conv4"), names, strict=True))}),
    )
    for source in (str(tmp_path), str(tmp_path / "genotype.json"), str(names), ",".join(names)):
        override = f"network_g:genotype={source if source.startswith('[') else json.dumps(source)}"
        options = load_options(TrainOptions, FOLDER / "train_imdn.yml", [override])
        assert NETWORKS.build(options.network_g)(scale=2).genotype.names == names
    text = refused("network_g:genotype=[conv_3x3, conv_3x3, conv_3x3]", file=FOLDER / "train_imdn.yml", model=TrainOptions)
    assert "network_g: a genotype of IMDN names 4 candidates" in text


def test_a_genotype_of_a_run_names_the_width(tmp_path: Path) -> None:
    content = {"arch": "PLAIN", "genotype": {"width": "12", "body1": "conv_3x3_2", "attention1": "none"}}
    write(tmp_path, "genotype.json", json.dumps(content))
    for source in (tmp_path, tmp_path / "genotype.json"):
        settings = [f"network_g:genotype={json.dumps(str(source))}", "network_g:num_blocks=1"]
        network = NETWORKS.build(load_options(TrainOptions, FOLDER / "train_plain.yml", settings).network_g)(scale=2)
        assert (network.nf, network.genotype.to_json()) == (12, content)
    text = refused(*settings, "network_g:nf=16", file=FOLDER / "train_plain.yml", model=TrainOptions)
    assert "network_g: the genotype is of width 12, and nf is 16. Leave nf out." in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("network_g:nf=[16, 18]", "  network_g.nf.1: Input should be a multiple of 4 (found 18)."),
        ("network_g:nf=[]", "  network_g.nf: List should have at least 1 item"),
        ("network_g:attentions=[spab]", "of PLAIN attentions, two or more different names are needed to choose from, not spab"),
    ],
)
def test_wrong_values_of_plain(override: str, words: str) -> None:
    assert words in refused(override, file=FOLDER / "budget_plain.yml")


def test_any_key_that_begins_with_val_is_a_validation_set() -> None:
    more = [
        "datasets:val_2={type: folder, dataroot_gt: a}",
        "datasets:validation={type: sample, name: all}",
        "datasets:val_3=null",
    ]
    datasets = load_options(TrainOptions, TRAIN, more, check_files=False).datasets
    assert [(name, section.type) for name, section in datasets.validation().items()] == [
        ("chelsea", "sample"),
        ("folder", "folder"),
        ("all", "sample"),
    ]
    only = load_options(TrainOptions, TRAIN, ["datasets:val=null", *more], check_files=False).datasets
    assert list(only.validation()) == ["folder", "all"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("datasets:vla={type: sample}", "datasets.vla: unknown key - did you mean 'val'? Allowed: train, val, val_..."),
        ("datasets:val_2={type: smaple}", "datasets.val_2: unknown data set 'smaple' - did you mean 'sample'?"),
        ("datasets:val_2={type: sample, hold_out: true}", "datasets.val_2.hold_out: unknown key - did you mean 'held_out'?"),
        (
            "datasets:val_2={type: sample, name: chelsea}",
            "val and val_2 are both called 'chelsea': give one of them another name",
        ),
        (
            "train:pixel_opt={type: L1HFENLoss, kernel_size: 129}",
            "datasets.train.gt_size 32 is not above 64, as L1HFENLoss needs",
        ),
        ("train:distill_opt={type: L1HFENLoss, teacher: x, kernel_size: 129}", "datasets.train.gt_size 32 is not above 64"),
        ("train:distill_opt={type: L1Loss}", "train.distill_opt.teacher: this key is required"),
        ("train:divergence_factor=0.5", "train.divergence_factor: must be above 1, or null, and 0.5 is not"),
        ("network_g:num_blocks=9223372036854775807", "network_g.num_blocks: Input should be less than or equal to 1000"),
        ("network_g:nf=1e18", "network_g.nf: Input should be less than or equal to 4096"),
        (
            "datasets:train:num_worker_per_gpu=1e6",
            "datasets.train.num_worker_per_gpu: Input should be less than or equal to 1024",
        ),
        ("datasets:train:batch_size_per_gpu=1e18", "batch_size_per_gpu: Input should be less than or equal to 65536"),
        ("datasets:train:gt_size=1e18", "gt_size: Input should be less than or equal to 131072"),
        ("train:precision=half", "train.precision: Input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("train:warmup_iter=-2", "train.warmup_iter: Input should be greater than or equal to -1"),
    ],
)
def test_wrong_values_of_a_training(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_options(TrainOptions, TRAIN, [override], check_files=False)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "datasets:train:dataroot_gt=a",
            "dataroot_gt: unknown key for type sample; it belongs to type folder and lmdb.",
        ),
        ("train:scheduler:gamma=1", "gamma: unknown key for type CosineAnnealingLR; it belongs to type StepLR and MultiStepLR"),
        ("datasets=[1]", "datasets: a section, keys with values, is expected (found [1])."),
        ("train=3", "train: a section, keys with values, is expected (found 3)."),
        ("val=x", "val: a section, keys with values, is expected (found 'x')."),
        ("train=null", "train.total_iter: this key is required, and missing."),
        ("name=2026", "name: text is expected, in quotes where it looks like a number or the like (found 2026)."),
        ("train:optim_g:betas=[0.9]", "train.optim_g.betas.1: this key is required, and missing."),
        ("train:optim_g:betas=3", "train.optim_g.betas: a list is expected (found 3)."),
        ("logger:use_tb_logger=maybe", "logger.use_tb_logger: true or false is expected"),
        ("train:total_iter=1.5", "train.total_iter: a whole number is expected (found 1.5)."),
        ("train:total_iter=1:30", "train.total_iter: a whole number is expected (found '1:30')."),
        ("train:total_iter='99999999999999999999'", "train.total_iter: a number below 2^63 is expected"),
        ("train:total_iter=1e300", "train.total_iter: a "),
        (f"train:total_iter={[list(range(99))] * 99}", "train.total_iter: a whole number is expected (found [[0, 1,"),
        ("network_g:genotype=nothere", "network_g: 'nothere' is no folder of a search and no .json file, and as names of candid"),
        ("network_g:genotype=nothere.json", "network_g.genotype: nothere.json does not exist"),
        ("search:epochs=3", "the key 'search' makes it an option file of tools/search.py, and not of tools/train.py"),
        ("models:a:path=x", "the key 'models' makes it an option file of tools/evaluate.py, and not of tools/train.py"),
    ],
)
def test_what_is_wrong_in_the_words_of_an_option_file(override: str, words: str) -> None:
    text = refused(override, file=TRAIN, model=TrainOptions)
    assert words in text and len(text) < 500
    assert not re.search(r"dictionary|instance of|tuple|valid (string|integer|boolean)|<class", text)


def test_an_option_file_of_another_tool_names_that_tool() -> None:
    for file, model, words in (
        (SAC, training_options, "the key 'search' makes it an option file of tools/search.py, and not of tools/train.py"),
        (TRAIN, search_options, "the key 'val' makes it an option file of tools/train.py, and not of tools/search.py"),
        (FOLDER / "benchmark.yml", training_options, "the key 'models' makes it an option file of tools/evaluate.py, and not"),
        (SAC, BenchmarkOptions, "the key 'search' makes it an option file of tools/search.py, and not of tools/evaluate.py"),
    ):
        with pytest.raises(UserError) as caught:
            load_options(model, file)
        assert str(caught.value).startswith(f"{file}: {words}")


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """The folder of a search at nf 16 and 3 blocks, and a training over its genotype."""
    names = {f"conv{number}": "conv_3x3" for number in range(1, 5)}
    write(tmp_path, "genotype.json", json.dumps({"arch": "IMDN", "genotype": names}))
    block = {"type": "IMDN", "nf": 16, "num_blocks": 3, "genotype": list(names.values())}
    write(tmp_path, "network_g.yml", dump_yaml({"scale": 2, "network_g": block}))
    return tmp_path


def size(*overrides: str, file: Path = TRAIN) -> tuple[int, int]:
    arguments = load_options(TrainOptions, file, overrides).network_g.arguments()
    return arguments["nf"], arguments["num_blocks"]


@pytest.mark.parametrize("name", ["", "/genotype.json"])
def test_a_genotype_over_an_inherited_size_that_it_was_not_searched_at(
    name: str, searched: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"network_g:genotype={searched}{name}"
    text = refused(source, file=TRAIN, model=TrainOptions)
    for part in (
        "was searched at nf 16, num_blocks 3,\nand this network would be nf 32, num_blocks 4.",
        "--force_yml network_g:nf=16 network_g:num_blocks=3 ",
        "--force_yml network_g:nf=32 network_g:num_blocks=4 ",
        f"_base_: [{TRAIN}, {searched / 'network_g.yml'}]",
    ):
        assert part in text
    assert "searched at num_blocks 3,\nand" in refused(source, "network_g:nf=16", file=TRAIN, model=TrainOptions)
    assert size(source, "network_g:nf=16", "network_g:num_blocks=3") == (16, 3) and not caplog.messages
    assert size(source, "network_g:nf=32", "network_g:num_blocks=4") == (32, 4)
    (message,) = caplog.messages
    assert message.endswith("was searched at nf 16, num_blocks 3, and this network is nf 32, num_blocks 4")


def test_the_size_of_a_genotype_is_taken_with_it_or_stated_beside_it(searched: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = write(searched, "bare.yml", re.sub(r"  (nf|num_blocks): .*\n|  genotype: .*\n", "", TRAIN.read_text()))
    assert size(file=bare) == (64, 6), "the published size, for the published genotype"
    assert size(f"network_g:genotype={searched}", file=bare) == (16, 3)
    assert size(f"network_g:genotype={searched}", "network_g:num_blocks=2", file=bare) == (16, 2)
    assert size(file=write(searched, "both.yml", f"_base_: [{TRAIN}, network_g.yml]")) == (16, 3)
    large = write(searched, "large.yml", f"_base_: {TRAIN}\nnetwork_g: {{genotype: {searched}, nf: 32, num_blocks: 4}}")
    assert size(file=large) == (32, 4) and len(caplog.messages) == 2, "search in small and train in large, in one's own words"
    small = write(searched, "small.yml", f"_base_: {TRAIN}\nnetwork_g: {{genotype: {searched}}}")
    assert "was searched at" in refused(file=small, model=TrainOptions)
    (searched / "network_g.yml").unlink()
    assert size(f"network_g:genotype={searched}") == (32, 4), "names alone have no size"
    names = json.loads((searched / "genotype.json").read_text())
    sized = names | {"network_g": {"type": "IMDN", "nf": 16, "num_blocks": 3}}
    (searched / "alone").mkdir()
    alone = write(searched, "alone/g.json", json.dumps(sized))
    assert size(f"network_g:genotype={alone}", file=bare) == (16, 3)
    assert "was searched at nf 16" in (text := refused(f"network_g:genotype={alone}", file=TRAIN, model=TrainOptions))
    assert "_base_" not in text
    write(searched, "genotype.json", json.dumps(sized))
    assert size(f"network_g:genotype={searched}", file=bare) == (16, 3)
    for other in ({"type": "DLSR", "nf": 16}, "nf: 16", None, [16]):
        alone.write_text(json.dumps(names | {"network_g": other}))
        assert size(f"network_g:genotype={alone}") == (32, 4)
    write(searched, "network_g.yml", "[")
    assert "network_g.yml, line 1" in refused(f"network_g:genotype={searched}", file=TRAIN, model=TrainOptions)


def test_a_null_that_means_something_survives_the_dump(tmp_path: Path) -> None:
    options = load_options(TrainOptions, TRAIN, ["train:divergence_factor=null", "train:distill_opt=null"], check_files=False)
    copy = write(tmp_path, "copy.yml", dump_options(options))
    assert options.train.divergence_factor == 0
    assert load_options(TrainOptions, copy, check_files=False) == options


def test_differences_name_the_path() -> None:
    old, new = ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    assert differences(old, new) == ["a.c: 2 -> 3", "d: None -> 4"]


def test_the_dump_is_plain_yaml() -> None:
    dumped = yaml.safe_load(dump_options(load_options(SearchOptions, SAC)))
    assert dumped["search"]["regularizer"]["schedule"] == {"type": "linear", "slope": 0.2, "warmup_epochs": 0}
