"""Costs of a network: parameters, and multiply-adds (MACs) at any image size without computing at that size.

What fvcore calls a FLOP is one multiply-add. The "FLOPs at 1280x720" of the SA-DARTS paper are MACs with a low-resolution
*input* of 1280x720; the "Multi-Adds" of super-resolution papers use a high-resolution *output* of 1280x720. Both are given
here, each under its name.

To add a cost that a search may penalise or bound, register a function here: a candidate module, and by name those attributes of
its :class:`~sr_nas.contracts.Place` that matter, to a number. Costs must add up over the modules of a network. An option file
weighs a cost with ``search.<name>_weight`` and bounds it with ``search.budget.<name>``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from inspect import signature
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.complexity.receptive_field import receptive_field
from sr_nas.contracts import Classifier, CostSite, Latency, Place, SearchSpace, SRNetwork, reparameterized
from sr_nas.errors import UserError, listing
from sr_nas.genotype import WIDTH
from sr_nas.registry import COSTS

with warnings.catch_warnings():  # fvcore stands on torch.jit, which announces its end on import
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

LR_1280x720 = (720, 1280)
"""Height and width."""

# Modulus of the residue classes -> number of such steps after which a stride that does not divide it shows. 6 is the product
# of the strides of RFDN's Enhanced Spatial Attention, 48 a multiple of all that are usual.
_STEPS = {1: 48, 6: 8, 48: 8}
_SMALLEST = 15  # what that attention needs: a 3x3 convolution of stride 2, then a 7x7 pooling, both unpadded
_TRACED = 63  # pixels per side up to which a size is traced itself

Size = tuple[float | Fraction, float | Fraction]
"""Height and width of an input in pixels."""
Trace = dict[str, Fraction]
"""Module name (``""`` for the whole) -> MACs."""
Forms = dict[tuple[int, int, int], "_Form"]
"""(step, residue of the height, of the width) -> form of a network's MACs; those made already."""


@COSTS.register("flops")
@COSTS.register()
def macs_lr(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Multiply-adds, fvcore's FLOPs, for a low-resolution network input of 1280x720 (SA-DARTS, section 6.7.3: "FLOPs")."""
    height, width = LR_1280x720
    return float(_exact_macs(candidate, channels, Fraction(height, downscale), Fraction(width, downscale)))


@COSTS.register()
def macs_hr(candidate: nn.Module, channels: int, downscale: int, scale: int) -> float:
    """Multiply-adds for a high-resolution output of 1280x720, as tables of super-resolution have them."""
    height, width = LR_1280x720
    return float(_exact_macs(candidate, channels, Fraction(height, scale * downscale), Fraction(width, scale * downscale)))


@COSTS.register()
def params(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Number of trainable values of the candidate."""
    return float(count_params(candidate))


@COSTS.register()
def shallowness(candidate: nn.Module) -> float:
    """``1 / (1 + depth)``, depth the number of convolutions larger than 1x1 (U-DARTS, Huang et al. 2023).

    It does not add up over a network, so that it cannot be a budget.
    """
    kernels = [module.kernel_size for module in candidate.modules() if isinstance(module, nn.Conv2d)]
    return 1 / (1 + sum(kernel != (1, 1) for kernel in kernels))


@COSTS.register()
def latency_ms(candidate: nn.Module, label: str, name: str, width: str, latency: Latency | None) -> float:
    """Milliseconds on this device by a table of ``tools/latency.py``, which depend on the place in the network."""
    if latency is None:
        raise UserError("latency_ms needs a table of this device in search.latency_table: tools/latency.py measures one.")

    def added(label: str, name: str, width: str) -> float:
        row = latency.of_candidates[label]
        return float(row[width][name] if width and label != WIDTH else row[name])

    if label:
        return added(label, name, width)
    picks = {label: names[0] for label, names in candidate.genotype.picks}  # type: ignore[union-attr] # of a whole network
    return latency.fixed + sum(added(label, picks[label], picks.get(WIDTH, "")) for label in latency.of_candidates)


def cost_table(space: SearchSpace, cost: str, latency: Latency | None = None) -> dict[str, Tensor]:
    """Return label -> registered cost of each candidate, float64 [candidates], summed over all sites that share the label.

    Where costs depend on the width they are [widths, candidates]. ``latency`` is the device's table, which the cost
    ``latency_ms`` needs.

    Raises:
        UserError: all candidates of all labels cost nothing, so that there is nothing to choose by.
    """
    return cost_tables(space, (cost,), latency)[cost]


def cost_tables(space: SearchSpace, names: Iterable[str], latency: Latency | None = None) -> dict[str, dict[str, Tensor]]:
    """Return :func:`cost_table` of several costs, for which every candidate is built and traced once."""
    choices, places, scale = space.choices(), space.cost_sites(), getattr(space, "scale", None)
    built = cache(lambda site, name: reparameterized(site.build(name)))  # labels and costs share sites

    @cache
    def cost_at(cost: str, site: CostSite, name: str, label: str = "", width: str = "") -> float:
        return measure(cost, built(site, name), Place(site.channels, site.downscale, scale, label, name, width, latency))

    tables: dict[str, dict[str, Tensor]] = {}
    # Building a candidate draws initial weights; the random numbers of a search must not depend on what is measured.
    with torch.random.fork_rng(devices=[]):
        for cost in names:
            table = tables[cost] = {}
            by_label = "label" in signature(COSTS.get(cost)).parameters  # what a candidate costs in all places of its label

            def of_label(
                label: str, sites: tuple[CostSite, ...], width: str = "", cost: str = cost, by_label: bool = by_label
            ) -> list[float]:
                return [
                    cost_at(cost, sites[0], name, label, width)
                    if by_label
                    else sum(site.count * cost_at(cost, site, name) for site in sites)
                    for name in choices[label].candidates
                ]

            for label, sites in places.items():
                table[label] = torch.tensor(
                    of_label(label, sites)
                    if isinstance(sites, tuple)
                    else [of_label(label, own, width) for width, own in sites.items()],
                    dtype=torch.float64,
                )
            if not any(costs.any() for costs in table.values()):
                raise UserError(
                    f"search: no candidate of {listing(table)} costs anything in {cost}; leave its weight and budget out."
                )
    return tables


def fixed_costs(
    space: SearchSpace, tables: Mapping[str, Mapping[str, Tensor]], latency: Latency | None = None
) -> dict[str, float]:
    """Return what every network of a space costs besides the candidates of its tables, by cost.

    Raises:
        UserError: the costs of two networks do not differ by what a table says.
    """
    rests: dict[str, list[float]] = {cost: [] for cost in tables}
    ones = {label: torch.ones(len(choice.candidates)) for label, choice in space.choices().items()}
    for place in (0, -1):  # the networks of all first and of all last candidates
        weights = {
            label: one if label not in next(iter(tables.values())) else torch.eye(len(one))[place] for label, one in ones.items()
        }
        with torch.random.fork_rng(devices=[]):
            network = reparameterized(space.derive(space.decode(weights)))
        for cost, table in tables.items():
            whole = measure(cost, network, Place(scale=getattr(space, "scale", None), latency=latency))
            rests[cost].append(whole - sum(float(costs[(place,) * costs.ndim]) for costs in table.values()))
    for cost, (first, last) in rests.items():
        if abs(first - last) > 1e-6 * max(abs(first), abs(last)):
            raise UserError(
                f"search.budget.{cost}: in {space.arch} it does not add up over the choices, so it cannot be bounded."
            )
    return {cost: first for cost, (first, _) in rests.items()}


def measure(cost: str, module: nn.Module, place: Place) -> float:
    """Return a registered cost of a module at its place; a UserError where the place lacks what the cost depends on."""
    function = COSTS.get(cost)
    wanted = {name: value for name, value in vars(place).items() if name in signature(function).parameters}
    if "scale" in wanted and place.scale is None:
        raise UserError(f"{cost} is a cost of networks of super-resolution, which have a scale.")
    return float(function(module, **wanted))


def count_params(network: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def complexity(network: SRNetwork) -> dict[str, int]:
    """Return ``params``, ``macs_lr_1280x720`` and ``macs_hr_1280x720``, with branches re-parameterised."""
    network = reparameterized(network)
    height, width = LR_1280x720
    lr, hr = count_macs(network, LR_1280x720, (Fraction(height, network.scale), Fraction(width, network.scale)))
    return {"params": count_params(network), "macs_lr_1280x720": lr[""], "macs_hr_1280x720": hr[""]}


def classifier_complexity(network: Classifier) -> dict[str, int]:
    """Return ``params`` and ``macs_<side>x<side>`` at the network's input size, without an auxiliary head, as papers do."""
    side = network.input_size
    params = sum(tensor.numel() for name, tensor in network.named_parameters() if not name.startswith("auxiliary."))
    return {"params": params, f"macs_{side}x{side}": trace_macs(network, (side, side))[""]}


def footprint(network: SRNetwork) -> dict[str, int | None]:
    """Return what takes seconds to measure: ``receptive_field`` in LR pixels (``None``: the whole image), and
    ``peak_activation_bytes`` for an HR output of 1280x720, or of the nearest size that is a multiple of the scale.
    """
    network = reparameterized(network)
    height, width = (round(side / network.scale) for side in LR_1280x720)
    peak = peak_activation_bytes(network, (height, width))
    return {"receptive_field": receptive_field(network), "peak_activation_bytes": peak}


def per_layer(network: nn.Module) -> list[tuple[str, str, int, int]]:
    """Return (name, class, parameters, MACs) of every leaf module that has either, with branches re-parameterised.

    MACs are for an LR input of 1280x720, and of a classifier for the size it is made for.
    """
    network = reparameterized(network)
    side = getattr(network, "input_size", None)
    macs = count_macs(network, LR_1280x720)[0] if side is None else trace_macs(network, (side, side))
    leaves = [(name, module) for name, module in network.named_modules() if next(module.children(), None) is None]
    rows = [(name, type(module).__name__, count_params(module), macs[name]) for name, module in leaves]
    return [row for row in rows if row[2] or row[3]]


def count_macs(network: nn.Module, *sizes: Size, channels: int = 3) -> list[dict[str, int]]:
    """Count the MACs of a network and of each of its submodules with fvcore, in eval mode.

    Strides and poolings without padding round sizes down, so that a count does not grow evenly with the image. Among the
    heights of one residue class modulo the product of the strides along the network, and widths likewise, it does: there it
    is exactly a + b H + c W + d H W. Fvcore traces at four small sizes that are congruent modulo 1 (every size), 6 or 48 to
    the requested one; they determine the form, and two more, far higher and far wider, check it. The first form that holds is
    used, so that every product of strides that divides 48 is served, and the common ones cheaply.

    A size that is no whole number (the input for an output of 1280x720 at x3 is 1280/3 wide) has the residue of the nearest
    whole one, and the form is evaluated at the size itself, then rounded.

    Args:
        network: takes ``[1, channels, H, W]``.
        sizes: (height, width) of the input in pixels, each. A whole size of at most 63 pixels per side is traced itself.
        channels: input channels.

    Returns:
        For each size: module name (``""`` for the whole) -> MACs.

    Raises:
        UserError: the count does not follow this form.
    """
    forms: Forms = {}
    counts = [_count(network, channels, Fraction(height), Fraction(width), forms) for height, width in sizes]
    return [{name: round(macs) for name, macs in count.items()} for count in counts]


def trace_macs(network: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Count as :func:`count_macs` does, by one pass on an image of that size: for networks of small images."""
    return {name: round(macs) for name, macs in _trace(network, 3, *size).items()}


_FORMS: WeakKeyDictionary[nn.Module, Forms] = WeakKeyDictionary()
"""Forms of modules whose MACs are asked for at several sizes, in :func:`_exact_macs`."""


def _exact_macs(network: nn.Module, channels: int, height: Fraction, width: Fraction) -> Fraction:
    """Count as :func:`count_macs` does, without rounding, so that counts of modules add up to that of their network."""
    return _count(network, channels, height, width, _FORMS.setdefault(network, {}))[""]


def _count(network: nn.Module, channels: int, height: Fraction, width: Fraction, forms: Forms) -> Trace:
    whole = (round(height), round(width))
    if whole == (height, width) and max(whole) <= _TRACED:
        return _trace(network, channels, *whole)
    # A stride without such an attribute fails the check of the form.
    strided = any(getattr(module, "stride", 1) not in (1, (1, 1)) for module in network.modules())
    for step in list(_STEPS)[strided:]:
        key = (step, whole[0] % step, whole[1] % step)
        if key not in forms:
            forms[key] = _Form(network, channels, whole, step)
        if forms[key].holds:
            return forms[key].at(height, width)
    raise UserError(
        f"the multiply-adds of {type(network).__name__} do not follow a + b H + c W + d H W for heights H and widths W that are "
        f"congruent modulo {step}, so that their number for {whole[0]}x{whole[1]} cannot be derived from smaller images"
    )


class _Form:
    """MACs for the sizes that are congruent to ``size`` modulo ``step``, bilinear between traces of four small ones."""

    def __init__(self, network: nn.Module, channels: int, size: tuple[int, int], step: int) -> None:
        self.step = step
        self.top, self.left = (_SMALLEST + (side - _SMALLEST) % step for side in size)
        self.corners = [
            [_trace(network, channels, height, width) for width in (self.left, self.left + step)]
            for height in (self.top, self.top + step)
        ]
        # Over n steps a layer behind a stride s grows by n step / s lines, to less than one line; the form gives it n times
        # what it grows by in the first step. These differ for all s <= 22 that do not divide the step.
        far = _STEPS[step] * step
        higher, wider = (self.top + far, self.left), (self.top, self.left + far)
        self.holds = all(self.at(*size) == _trace(network, channels, *size) for size in (higher, wider))

    def at(self, height: Fraction | int, width: Fraction | int) -> Trace:
        y, x = Fraction(height - self.top) / self.step, Fraction(width - self.left) / self.step
        (a, b), (c, d) = self.corners
        return {name: (1 - y) * ((1 - x) * a[name] + x * b[name]) + y * ((1 - x) * c[name] + x * d[name]) for name in a}


def _trace(network: nn.Module, channels: int, height: int, width: int) -> Trace:
    parameter = next(network.parameters(), torch.zeros(()))
    x = torch.zeros(1, channels, height, width, dtype=parameter.dtype, device=parameter.device)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            analysis = FlopCountAnalysis(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            return {name: Fraction(macs) for name, macs in analysis.by_module().items()}
    except AssertionError as error:  # of fvcore, where a product of tensors has other dimensions than it knows
        raise UserError(f"fvcore cannot count the multiply-adds of {type(network).__name__}: {error}.") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
