"""Option files of BasicSR in our words."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from sr_nas.errors import UserError
from sr_nas.options.basicsr import from_basicsr
from sr_nas.options.load import check_options, load_options
from sr_nas.options.sections import TrainOptions
from tests.conftest import REPOSITORY

FILE = REPOSITORY / "options" / "basicsr" / "train_imdn.yml"
# The shape of train_EDSR_Mx2.yml and train_MSRResNet_x4.yml of BasicSR's repository.
EDSR = """
name: 201_EDSR_Mx2
model_type: SRModel
scale: 2
num_gpu: 4
manual_seed: 10
datasets:
  train:
    name: DIV2K
    type: PairedImageDataset
    dataroot_gt: gt.lmdb
    dataroot_lq: lq.lmdb
    meta_info_file: basicsr/data/meta_info/meta_info_DIV2K800sub_GT.txt
    filename_tmpl: '{}'
    io_backend: {type: lmdb}
    gt_size: 96
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 16
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: Set5/GTmod12
    dataroot_lq: Set5/LRbicx2
    io_backend: {type: disk}
  val_2: {name: Set14, type: PairedImageDataset, dataroot_gt: Set14/GTmod12, dataroot_lq: Set14/LRbicx2, io_backend: {type: disk}}
network_g:
  type: EDSR
  num_in_ch: 3
  num_out_ch: 3
  num_feat: 64
  num_block: 16
  upscale: 2
  res_scale: 1
  img_range: 255.
  rgb_mean: [0.4488, 0.4371, 0.4040]
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [200000], gamma: 0.5}
  total_iter: !!float 3e5
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: !!float 5e3
  save_img: false
  pbar: true
  metrics: {psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: false}}
logger: {print_freq: 100, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""


def options(text: str, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    raw = yaml.safe_load(text)
    for path, value in changes.items():
        section = raw
        *keys, last = path.split("__")
        for key in keys:
            section = section[key]
        section[last] = value
    return from_basicsr(raw, "x.yml")


def test_the_file_that_trains_in_both_is_valid_here() -> None:
    found = load_options(TrainOptions, FILE, check_files=False)
    assert found.network_g.type == "IMDN" and found.scale == 2
    assert found.datasets.train.type == "folder" and found.datasets.train.gt_size == 192
    assert found.datasets.train.arguments()["filename_tmpl"] == "{}x2"
    assert found.train.scheduler.type == "MultiStepRestartLR" and found.train.optim_g.arguments()["lr"] == 2e-4
    assert (found.val.val_freq, found.logger.save_checkpoint_freq, found.train.total_iter) == (5000, 5000, 1_000_000)


def test_a_file_of_basicsrs_own_network(basicsr: Any) -> None:
    raw, notes = options(EDSR)
    found = check_options(TrainOptions, raw, "x.yml", check_files=False)
    assert found.network_g.type == "basicsr.EDSR"
    assert found.network_g.arguments()["num_feat"] == 64 and "upscale" not in found.network_g.arguments()
    assert found.datasets.train.type == "lmdb" and list(found.datasets.validation()) == ["Set5", "Set14"]
    assert found.num_gpu == "auto" and found.logger.use_tb_logger is True
    assert [note.split(":")[0] for note in notes] == ["num_gpu 4", "val.metrics.psnr"]


def test_what_basicsr_takes_for_granted_is_stated() -> None:
    raw = yaml.safe_load(EDSR)
    del raw["train"]["ema_decay"], raw["train"]["scheduler"]["gamma"]
    train = from_basicsr(raw, "x.yml")[0]["train"]
    assert train["ema_decay"] == 0 and train["scheduler"]["gamma"] == 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "SRGANModel"}, "model_type: SRGANModel cannot be trained here"),
        ({"train__perceptual_opt": {"type": "PerceptualLoss"}}, "perceptual_opt: only a pixel loss"),
        ({"train__pixel_opt": {"type": "L1Loss", "reduction": "sum"}}, "reduction: losses are means"),
        ({"train__scheduler": {"type": "TrueCosineAnnealingLR", "T_max": 5}}, "T_max: the cosine spans the whole training"),
        ({"datasets__train__type": "REDSDataset"}, "datasets.train.type: REDSDataset cannot be read"),
        ({"datasets__val__io_backend": {"type": "memcached"}}, "memcached cannot be read here"),
        ({"datasets__train__mean": [0.5, 0.5, 0.5]}, "networks take RGB in 0..1"),
        ({"network_g__upscale": 4}, "network_g.upscale: it is 4, and the scale of the file is 2"),
        ({"path__resume_state": "a.state"}, "a run of BasicSR cannot go on here"),
    ],
)
def test_what_trains_otherwise_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        options(EDSR, **changes)


def test_which_of_two_networks_a_file_starts_from_is_said() -> None:
    _, notes = options(EDSR, path__pretrain_network_g="net_g.pth")
    assert "path.param_key_g is not given: of params_ema and params the former is taken, by BasicSR the latter" in notes
    assert options(EDSR, datasets__val__io_backend="disk")[0]["datasets"]["val"]["type"] == "folder"


def test_metrics_that_are_not_measured_are_said() -> None:
    psnr = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
    for metric in ({"type": "calculate_niqe", "crop_border": 2}, {"type": "calculate_lpips"}, {}, None, "niqe"):
        _, notes = options(EDSR, val__metrics={"psnr": psnr, "other": metric}, num_gpu=1)
        assert notes == ["val.metrics.other is not measured here; PSNR and SSIM are"]


def test_keys_that_nobody_knows_are_errors(basicsr: Any) -> None:
    for changes, words in (
        ({"train__totl_iter": 3}, "train.totl_iter: unknown key"),
        ({"network_g__num_feats": 3}, "network_g.num_feats: unknown key - did you mean 'num_feat'"),
        ({"network_g__type": "EDSSR"}, "unknown network 'basicsr.EDSSR' - did you mean 'EDSR'"),
    ):
        with pytest.raises(UserError) as raised:
            check_options(TrainOptions, options(EDSR, **changes)[0], "x.yml", check_files=False)
        assert words in str(raised.value)


def test_what_has_no_effect_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "x.yml"
    file.write_text(FILE.read_text().replace("gt_size: 192", "gt_size: 192\n    meta_info_file: some.txt"))
    with caplog.at_level(logging.WARNING):
        load_options(TrainOptions, file, check_files=False)
    assert f"{file}, an option file of BasicSR: datasets.train.meta_info_file has no effect here" in caplog.text
