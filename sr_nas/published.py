"""The super-resolution rows of SA-DARTS (Zhou et al., arXiv 2504.16306), tables 3 and 7, as they are printed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as in the paper, but for "FLOPs term", which is its "w/ FLOPs constraint".
        genotype: the operations as the text names them; for SAC-IMDN, which it does not name, those of the one row with the
            same parameter count.
        search: option file of the search, in ``options/`` and in ``options/paper/``; ``""`` for a network made by hand.
        params: as printed, in thousands.
        multi_adds: as printed, in 10^9.
        psnr: at x2, as printed, in dB: Set5, Set14, B100, Urban100.
    """

    name: str
    genotype: str
    search: str
    params: float
    multi_adds: float
    psnr: tuple[float, float, float, float]

    @property
    def arch(self) -> str:
        """Registered name of the network."""
        return "DLSR" if "DLSR" in self.name else "IMDN"

    @property
    def scale(self) -> int:
        """Scale of the head that the paper counts, whatever the scale of the scores: x4 for IMDN."""
        return {"DLSR": 2, "IMDN": 4}[self.arch]

    @property
    def training(self) -> str:
        """Option file of the training, in ``options/paper/``."""
        return f"train_{self.search or 'imdn'}"


_COMPACT = "dsconv_3x3,conv_3x3,dsconv_3x3_bn,dsconv_5x5"
_LARGE = "conv_5x5_bn,conv_5x5,conv_5x5_bn,conv_5x5_bn"
_TINY = "dil_dsconv_3x3,dsconv_3x3,dsconv_3x3,dil_dsconv_3x3"

ROWS = (
    Row("DLSR", "sep_conv_5x5,conv_1x1,sep_conv_7x7", "dlsr", 322.62, 363.37, (37.91, 33.56, 32.17, 32.10)),
    Row("IMDN", "conv_3x3,conv_3x3,conv_3x3,conv_3x3", "", 715.18, 654.53, (38.00, 33.63, 32.19, 32.17)),
    Row("DLSR + Beta-DARTS", "conv_7x7,conv_7x7,conv_7x7", "beta_dlsr", 2243.00, 2131.14, (37.88, 33.46, 32.09, 31.71)),
    Row("SA-DLSR", "dil_conv_3x3,dil_conv_3x3,dil_conv_5x5", "sa_dlsr", 264.73, 215.90, (37.97, 33.53, 32.16, 32.02)),
    Row("SAC-DLSR", "sep_conv_3x3,sep_conv_3x3,sep_conv_3x3", "sac_dlsr", 309.37, 350.70, (37.98, 33.58, 32.17, 32.16)),
    Row("IMDN + Beta-DARTS", _LARGE, "beta_imdn", 1773.67, 1745.04, (38.01, 33.47, 32.11, 32.12)),
    Row("SAC-IMDN", _COMPACT, "sac_imdn", 349.22, 317.09, (37.98, 33.65, 32.20, 32.21)),
    Row("IMDN + Beta-DARTS, FLOPs term", _COMPACT, "beta_imdn_flops", 349.22, 431.38, (37.91, 33.27, 32.05, 31.87)),
    Row("SAC-IMDN, FLOPs term", _TINY, "sac_imdn_flops", 200.04, 293.89, (37.92, 33.32, 32.08, 31.93)),
)
