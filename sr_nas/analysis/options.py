"""Options of a benchmark table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from sr_nas.options.sections import OutputPath, RunName
from sr_nas.options.strict import ExistingPath, GenotypeSource, Strict

BICUBIC = "bicubic"


class Model(Strict):
    """A network to measure, and how it runs."""

    path: ExistingPath
    """Exported file, folder of a training, or released weights (.pth, .pt) with arch."""
    arch: str | None = None
    """Architecture of released weights, e.g. imdn or dlsr."""
    genotype: GenotypeSource | None = None
    """Genotype of released weights that do not tell it."""
    ensemble: bool = False
    """x8 self-ensemble: the mean over the flips and turns of the image."""
    tile: PositiveInt | None = None
    """Side of the tiles in LR pixels; by default the network sees whole images."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network under bfloat16 autocast."""


# A file that names no model yet has nothing under the key, which is null in YAML.
Models = Annotated[
    dict[RunName, Model | None],
    BeforeValidator(lambda value: {} if value is None else value, json_schema_input_type=dict[RunName, Model | None] | None),
]


class BenchmarkOptions(Strict):
    """An option file of ``tools/evaluate.py``."""

    name: RunName
    """Name of the benchmark and of its folder, in which it goes on with what it has measured."""
    num_gpu: Literal["auto", 0, 1] = "auto"
    """auto: CUDA, else MPS, else CPU; 0: CPU; 1: an accelerator, which must exist."""
    datasets: Annotated[dict[RunName, str | None], Field(min_length=1)]
    """Set -> its folder, as tools/evaluate.py --data takes it; null leaves out a set that another file names."""
    models: Models = Field(default_factory=dict)
    """Name in the table -> network, measured at its own scale; null leaves out one that another file names."""
    bicubic: list[Literal[2, 3, 4]] | None = None
    """Scales at which bicubic is measured; by default those of the models, or all where there are none."""
    save_images: bool = False
    """Keep every SR image, as images/<model>/<set>_x<scale>/<image>.png in the benchmark's folder."""
    crop: PositiveInt = 96
    """Side in HR pixels of the crops in the pictures of the first model's best and worst against bicubic."""
    perceptual: list[Literal["lpips", "dists"]] = Field(default_factory=list)
    """Learned metrics beside PSNR and SSIM; they need pip install 'sr_nas[perceptual]'."""
    path: OutputPath = OutputPath()

    @model_validator(mode="after")
    def _possible(self) -> BenchmarkOptions:
        if BICUBIC in (name.lower() for name in self.models):
            raise ValueError("models: 'bicubic' is the name of the baseline; give this model another")
        for names, kind in ((self.models, "models"), (self.datasets, "datasets")):
            if len({name.lower() for name in names}) < len(names):
                raise ValueError(f"{kind}: two names differ only in capital letters, which some file systems do not tell apart")
        if not any(self.datasets.values()):
            raise ValueError("datasets: there is no set to measure on")
        if self.bicubic == [] and not any(self.models.values()):
            raise ValueError("models: there is nothing to measure, neither a model nor bicubic")
        return self
