"""The project's only metadata. Imports nothing of torch or of sr_nas, so that building needs neither."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "sr_nas/__init__.py").read_text(encoding="utf-8"), re.M)
assert VERSION is not None

# basicsr 1.4.2 is the last release; its setup.py cannot be read by Python 3.13 and later.
BASICSR = 'basicsr>=1.4.2; python_version < "3.13"'
TENSORBOARD = "tensorboard>=2.17.1"  # the first that runs with NumPy 2
# PyTorch's exporter writes through onnxscript, 0.3 or newer for the PyTorch 2.7 that exports of any size need. What is written
# is checked by ONNX Runtime, of which 1.19 is the first built for NumPy 2.
ONNX = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.19"]
# pnnx contains a PyTorch, which must be new enough for the TorchScript of ours, and ncnn must know the layers that it writes: of
# both, the first that every network of ours was converted and run with.
NCNN = ["ncnn>=1.0.20261020", "pnnx>=20261020"]
# 0.4 has the registry and the restricted reading of .pth that our bridge relies on.
SPANDREL = "spandrel>=0.4"
# The benchmark's own readers of its official files: 1.8 is the last of NATS-Bench, 2.1 the last of NAS-Bench-201.
NASBENCH = ["nats-bench>=1.8", "nas-bench-201>=2.1"]
# Server and routes of sr-nas app; the oldest with which its tests have passed.
APP = ["uvicorn>=0.30", "starlette>=0.40"]
HEIC = "pillow-heif>=0.13"  # reads HEIC and HEIF photos; the first for Pillow 10.1 and Python 3.12
RAY = "ray>=2.9"  # the first whose tasks run on Python 3.12
TABLE = "scikit-learn>=1.3"  # predicts the networks that tools/build_benchmark.py has not trained

setup(
    name="sr_nas",
    version=VERSION[1],
    description="Search, train, measure, export and run small super-resolution networks",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sr_nas", "sr_nas.*"]),
    package_data={
        "sr_nas": ["py.typed", "models/*.safetensors", "models/*.md"],
        "sr_nas.app": ["page/*"],
        "sr_nas.report": ["page.html"],
        "sr_nas.classification": ["nasbench201.npz", "README.md"],
        "sr_nas.networks": ["imdn_table.npz", "imdn_table.json", "imdn_trainings.csv"],
    },
    entry_points={"console_scripts": ["sr-nas = sr_nas.cli:main"]},
    install_requires=[
        "torch>=2.4",  # reads the states of optimizers and schedulers with weights_only=True
        "numpy>=1.26",
        "typing-extensions>=4.6",  # Self, before Python 3.11
        "pydantic>=2.9",  # JSON schema of what a validator takes, where it differs from what it gives
        "annotated-types>=0.6",  # bounds of parameters, which pydantic understands
        "pyyaml>=6.0",
        "rich>=13.0",
        "matplotlib>=3.8",
        "jinja2>=3.1",  # the template of report.html; PyTorch brings it along
        "safetensors>=0.4.3",
        "fvcore>=0.1.5.post20221221",  # the last release
        "scikit-image>=0.22",  # the sample photos, and SSIM
        "torchvision>=0.19",  # crops and colours of labelled images, as ImageNet is trained; of the release of PyTorch 2.4
        "pillow>=10.0",  # reads and writes images of 8 bits
        # 16-bit RGB, which Pillow cuts to 8 bits. The headless build, since the other one needs libGL, which servers lack.
        "opencv-python-headless>=4.8",
        "tifffile>=2022.8.12",  # writes 16-bit TIFF with a colour profile; scikit-image needs it too
        "simplejpeg>=1.7.5",  # passes on libjpeg's warnings of damaged files, and decodes in a third of Pillow's time
        "lmdb>=1.4",
        "pooch>=1.7",  # fetches published archives and verifies their hashes
        "requests>=2.28",  # the downloads that pooch is given: continued where they broke off
        "imagehash>=4.3",  # perceptual hashes: the same picture twice in a data set
        "kornia>=0.6.10",  # the filter of L1HFENLoss; the first whose Gaussian takes a dtype
        "pytorch-optimizer>=3.3",  # SOAP; the oldest that its options were tried with
        "psutil>=5.9",  # memory of the machine and of processes
    ],
    extras_require={
        "onnx": ONNX,
        "ncnn": NCNN,
        "spandrel": [SPANDREL],
        "basicsr": [BASICSR],
        "heic": [HEIC],
        "perceptual": ["torchmetrics>=1.7"],  # LPIPS and DISTS; 1.7 is the first with DISTS
        "nasbench": NASBENCH,  # tools/complexity.py --official
        "table": [TABLE],
        "sweep": [RAY],  # tools/sweep.py --address
        "app": APP,
        "tensorboard": [TENSORBOARD],  # logger.use_tb_logger
        "wandb": ["wandb>=0.19"],  # logger.wandb; 0.19 is the first without a process of Python's beside the run
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.2",
            "scipy>=1.11",
            "jsonschema>=4.0",
            BASICSR,
            TENSORBOARD,
            TABLE,
            RAY,
            *APP,
            "selenium>=4.20",  # drives the system's Chromium; without one these tests skip
            *ONNX,
            *NCNN,
            SPANDREL,
            HEIC,
            *NASBENCH,
        ],
        # 1.6 of mkdocs makes pages of files outside docs/; mkdocstrings reads the reference off docstrings.
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings-python>=1.10"],
        "lint": ["ruff>=0.6", "mypy>=1.11", "types-PyYAML"],
    },
)
