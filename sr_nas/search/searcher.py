"""The search loop: alternate one alpha step and one weight step (SA-DARTS, algorithm 1) until the epochs are done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sr_nas.contracts import Stream, Weights
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.registry import SELECTIONS
from sr_nas.runs.device import Precision, autocast
from sr_nas.runs.distributed import broadcast, mean, rank, replicate, world_size
from sr_nas.runs.run_dir import count_of
from sr_nas.search.alpha import Alpha, Draw, in_pass, to_device
from sr_nas.search.bilevel import Batch, StepContext, alpha_gradient, alpha_gradient_by_differences, momentum_and_decay
from sr_nas.search.budget import Cost, Multipliers, check_limits, decode
from sr_nas.search.graph import obstacle, recorded
from sr_nas.search.objective import Objective, expected_cost

Record = dict[str, Any]
Selection = Callable[[], tuple[Genotype, dict[str, float]]]
"""Returns the network of a search whose steps are done, and numbers on the choice for the last record."""

_RESET = ("weight_optimizer", "alpha_optimizer", "scheduler", "multipliers")
_STATEFUL = ("alpha", "space", "training", "validation", "stop", *_RESET)
_ADVICE = "Lower train.optim_g.lr, search.alpha.optim.lr or the weights of regulariser and costs, or set train.grad_clip_norm."


@dataclass(frozen=True)
class Plan:
    """Length and method of a search.

    Attributes:
        epochs: of all restarts together; lambda_e and the schedulers count in those of one.
        steps_per_epoch: pairs of an alpha step and a weight step.
        warmup_epochs: epochs at the start in which only weights are trained.
        second_order: differentiate alpha through a look-ahead step of the weights.
        finite_difference: differentiate through the look-ahead by finite differences (DARTS, eq. 8), not exactly.
        xi: learning rate of the look-ahead; ``None`` for the weights' current one.
        sgd_look_ahead: the look-ahead has the momentum and the weight decay of the weights' optimizer, which is SGD.
        single_level: alpha and weights descend on one training batch by one backward pass (SNAS, Xie et al. 2019).
        alpha_on_both: alpha descends on the sum of the validation and the training loss, not on the former alone.
        grad_clip_norm: largest norm of the weights' gradient; ``None`` for no limit.
        seed: of a relaxation that samples.
        restarts: times that the search begins anew, a divisor of ``epochs``.
        cuda_graph: replay recorded steps (:mod:`sr_nas.search.graph`); ``"auto"`` where that is possible.
    """

    epochs: int
    steps_per_epoch: int
    warmup_epochs: int = 0
    second_order: bool = False
    finite_difference: bool = False
    xi: float | None = None
    sgd_look_ahead: bool = False
    single_level: bool = False
    alpha_on_both: bool = False
    grad_clip_norm: float | None = None
    precision: Precision = "fp32"
    seed: int = 0
    restarts: int = 1
    cuda_graph: Literal["auto"] | bool = False

    def own_epoch(self, epoch: int) -> int:
        """Return which epoch of its restart an epoch is, both counted from 1."""
        return (epoch - 1) % max(self.epochs // self.restarts, 1) + 1


@SELECTIONS.register()
def argmax(searcher: Searcher) -> Selection:
    """The network that alpha prefers among those within all budgets (DARTS, section 2.4)."""
    return lambda: (searcher.genotype(), {})


@dataclass(eq=False)
class Searcher:
    """One search; :meth:`state_dict` holds everything that resuming needs.

    Several processes may search together (:mod:`sr_nas.runs.distributed`), each with its slice of every batch: gradients
    and losses are means over them, so that all hold the weights and the alpha of one process with the whole batches. Only
    BatchNorm sees slices, as in DistributedDataParallel, and its running statistics are the first process's.

    Attributes:
        space: supernet (:class:`sr_nas.contracts.SearchSpace`), on its device.
        alpha: architecture parameters, on the same device.
        relaxation: logits -> weights.
        objective: loss of alpha; its task loss is also that of the weights.
        training: batches for the weights.
        validation: batches for alpha, of other images.
        scheduler: of learning rates, stepped once per epoch.
        budgets: name -> cost of the derived network with its limit; the genotype never exceeds one.
        selection: searcher -> :data:`Selection`; called before the first step, and what it returns after the last.
        beginning: number of a restart, from 1 -> state dicts of the supernet and of the alpha that it begins with.
        metrics: name -> (output, target) -> mean of a metric over a batch, which a selection may go by; more is better.
        stopping: searcher -> :class:`sr_nas.search.stopping.Stop`, which may end the search after an epoch.
        over_epochs: attribute of the space, or of alpha -> its value by epoch, counted from 1; 0 when networks are compared.
        perturbation: of the relaxed weights that a step of the supernet's weights takes (:mod:`sr_nas.search.perturbation`).

    Raises:
        UserError: no network is within the budgets, the space lacks what is to change over the epochs, or steps cannot be
            recorded as CUDA graphs and are to be.
    """

    space: Any
    alpha: Alpha
    relaxation: Callable[..., Tensor]
    objective: Objective
    training: Stream
    validation: Stream
    weight_optimizer: Optimizer
    alpha_optimizer: Optimizer
    scheduler: LRScheduler
    plan: Plan
    budgets: Mapping[str, Cost] = field(default_factory=dict)
    selection: Callable[[Searcher], Selection] = argmax
    beginning: Callable[[int], tuple[Any, Any]] | None = None
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    stopping: Callable[[Searcher], Any] | None = None
    over_epochs: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    perturbation: Callable[[Weights, Callable[[Weights], Tensor], Draw], Weights] | None = None

    def __post_init__(self) -> None:
        check_limits(self.space, self.budgets)
        for name, schedule in self.over_epochs.items():
            if getattr(self._owner(name), name, None) is None:
                advice = f"Set network_g.{name}" if hasattr(self.space, name) else "Leave it out"
                raise UserError(f"search.over_epochs.{name}: this supernet has no {name}. {advice}.")
            numbers = map(schedule, range(1, self.plan.epochs // self.plan.restarts + 1))
            if "drop" in name and not all(0 <= number < 1 for number in numbers):
                raise UserError(f"search.over_epochs.{name} is a probability: from 0 to below 1 in every epoch.")
        self.device = next(iter(self.alpha.parameters())).device
        self.multipliers = Multipliers(self.budgets, self.device)
        self._average: Callable[..., list[Tensor]] = mean if world_size() > 1 else list
        self._autocast = autocast(self.device, self.plan.precision)
        broadcast(list(self.alpha.parameters()))
        self.step = self.stopped = 0
        self.verdict = dict[str, float](), ""
        # Beta at the end of each restart before the current one, and how many there are.
        others = self.plan.restarts - 1
        self.ends = {label: logits.new_zeros(others, len(logits)) for label, logits in self.alpha.by_label().items()}
        self.finished = 0
        self.learns_alpha = any(weights.requires_grad for weights in self.alpha.relax(self.relaxation).values())
        with torch.no_grad():
            draws_paths = any(weights.dtype == torch.bool for weights in self.alpha.relax(self._in_pass(1)).values())
        if draws_paths and self.perturbation:
            raise UserError("search.perturbation changes weights of candidates, and search.relaxation draws candidates without.")
        # The alpha step calls the bare supernet, with other weights than its own, and averages its gradient itself.
        self.replica = replicate(self.space, partial=draws_paths)
        for group in self.weight_optimizer.param_groups if draws_paths else []:
            # Weights that no pass has run yet have no momentum, which PyTorch's fused SGD fails on.
            group["fused"] = group.get("fused") and not group.get("momentum")
        self.not_recorded = obstacle(self) if self.plan.cuda_graph else ""
        if self.not_recorded and self.plan.cuda_graph is True:
            raise UserError(f"search.cuda_graph is true, but {self.not_recorded}. Set it to auto or false.")
        self._record_anew()
        self.select = self.selection(self)
        self.stop: Any = self.stopping(self) if self.stopping else nn.Module()
        self._initial = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in _RESET} if self.beginning else {}
        self.seconds = 0.0
        self.sums: dict[str, float] = {}
        # Reading a loss synchronises the device, so losses are read every so many steps.
        self.read_every = 1 if self.device.type == "cpu" else 20
        self._unread: list[tuple[int, dict[str, Tensor]]] = []

    @property
    def steps(self) -> int:
        """Steps of the whole search; once it is stopped, those that are done."""
        return self.stopped or self.plan.epochs * self.plan.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epoch of the next step, counted from 1."""
        return self.step // self.plan.steps_per_epoch + 1

    @property
    def own_epoch(self) -> int:
        """Epoch of the next step within its restart, counted from 1."""
        return self.plan.own_epoch(self.epoch)

    @property
    def progress(self) -> float:
        """Share of the epochs of the restart that is done, 0 in the first."""
        return (self.own_epoch - 1) * self.plan.restarts / max(self.plan.epochs, 1)

    def run(
        self,
        on_step: Callable[[Mapping[str, Tensor]], None] = lambda losses: None,
        on_epoch: Callable[[Record], None] = lambda record: None,
        between_steps: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Search on from the current step; return whether the search is finished.

        Args:
            on_step: called after every step with its losses, scalars on the device: reading their values synchronises it.
            on_epoch: called after every epoch with its record (see :meth:`record`).
            between_steps: called last after every step, when :meth:`state_dict` is complete; true ends the call.

        Raises:
            UserError: a loss is no longer finite; noticed up to ``read_every`` steps later, and before an epoch ends.
        """
        self.space.train()
        while self.step < self.steps:
            epoch, started = self.epoch, time.perf_counter()
            losses = self.take_step()
            ends_epoch = self.step % self.plan.steps_per_epoch == 0
            self._unread.append((self.step, losses))
            if ends_epoch or len(self._unread) >= self.read_every:
                self.read_losses()
            if ends_epoch and self.stopping:
                self.verdict = self.stop(self)
                self.stopped = self.step if self.verdict[1] else 0
            self.seconds += time.perf_counter() - started
            on_step(losses)
            if ends_epoch:
                self.scheduler.step()
                record = self.record(epoch, *self._selected())
                self.sums, self.seconds = {}, 0.0
                on_epoch(record)
                if self.step < self.steps and self.own_epoch == 1:
                    self.restart()
            if between_steps():
                break
        return self.step >= self.steps

    def restart(self) -> None:
        """Begin anew from other weights and another alpha, keeping beta for the choice of the network."""
        assert self.beginning is not None
        with torch.no_grad():
            for label, beta in self.alpha.relax(self.relaxation).items():
                self.ends[label][self.finished] = beta
        self.finished += 1
        for module, state in zip((self.space, self.alpha), self.beginning(self.finished), strict=True):
            module.load_state_dict(state)
        for name, state in self._initial.items():
            getattr(self, name).load_state_dict(copy.deepcopy(state))
        self._record_anew()

    def take_step(self) -> dict[str, Tensor]:
        """Move alpha and the weights once each; return their losses, which :meth:`run` sees to."""
        training = self.next_batch(self.training)
        self._begin_step()
        alpha_step, weight_step = self._recorded or (self.alpha_step, self.weight_step)
        losses: dict[str, Tensor] = {}
        moves_alpha = self.learns_alpha and self.own_epoch > self.plan.warmup_epochs
        if moves_alpha and self.plan.single_level:
            losses = self.joint_step(training)
        else:
            if moves_alpha:
                losses = alpha_step(self.next_batch(self.validation), training)
            losses["train"] = weight_step(training)
        self.step += 1
        return losses

    def _begin_step(self) -> None:
        """Give the supernet its numbers of this epoch; what it draws with them is a function of (seed, step, process)."""
        for name, schedule in self.over_epochs.items():
            setattr(self._owner(name), name, schedule(self.own_epoch))
        if self.over_epochs:
            address = np.random.SeedSequence([self.plan.seed, self.step, rank()])
            torch.manual_seed(int(address.generate_state(1, np.uint64)[0]))

    def _owner(self, name: str) -> nn.Module:
        """Return alpha where it has what changes over the epochs, else the supernet."""
        return self.alpha if hasattr(self.alpha, name) else self.space

    def _selected(self) -> tuple[Genotype, dict[str, float]]:
        """Return what :meth:`record` takes: the network that is selected after the last step, else the one of alpha."""
        started = time.perf_counter()
        for name in self.over_epochs:
            if self._owner(name) is self.space and self.step == self.steps:
                setattr(self.space, name, 0.0)
        genotype, numbers = self.select() if self.step == self.steps else (self.genotype(), {})
        self.seconds += time.perf_counter() - started
        return genotype, numbers

    def alpha_step(self, validation: Batch, training: Batch) -> dict[str, Tensor]:
        """Move alpha once on a validation batch; return the parts of its objective.

        The look-ahead of second order is a step on the training batch that the weights take next (DARTS, algorithm 1).
        """
        self.alpha_optimizer.zero_grad()
        parts = self.alpha_gradient(validation, training)
        if self.budgets:
            self.multipliers.add_gradient(self.alpha, self.relaxation)
        self.alpha_optimizer.step()
        return parts

    def alpha_gradient(self, validation: Batch, training: Batch) -> dict[str, Tensor]:
        """Add the gradient of the current step to the ``grad`` of alpha, moving nothing; return the parts of the objective."""
        step = self.context(validation, training)
        return (alpha_gradient_by_differences if self.plan.finite_difference and step.xi else alpha_gradient)(step)

    def context(self, validation: Batch, training: Batch) -> StepContext:
        """Return the supernet, alpha and these batches as the gradient of alpha takes them in the current step."""
        plan, xi = self.plan, 0.0
        if plan.second_order:
            xi = self.weight_optimizer.param_groups[0]["lr"] if plan.xi is None else plan.xi
        drift = momentum_and_decay(self.weight_optimizer, self.space) if xi and plan.sgd_look_ahead else {}
        return StepContext(
            self.space, self.alpha, self._in_pass(0), self.objective, self.own_epoch, validation, training,
            xi=xi, drift=drift, on_both=plan.alpha_on_both, autocast=self._autocast, average=self._average,
        )  # fmt: skip

    def weight_step(self, training: Batch) -> Tensor:
        """Move the weights once on a training batch; return the task loss."""
        with torch.no_grad():
            weights: Weights = self.alpha.relax(self._in_pass(1))
        if self.perturbation is not None:
            loss = self.context(training, training).training_loss
            weights = self.perturbation(weights, loss, Draw((self.plan.seed, self.step, 2), self.progress))
        return self.descend(self.replica, self.weight_optimizer, training, weights)

    def joint_step(self, training: Batch) -> dict[str, Tensor]:
        """Move alpha and the weights once each by one backward pass on a batch; return as :meth:`take_step`."""
        weights, parts = self.alpha.relax(self._in_pass(0)), dict[str, Tensor]()

        def total(task: Tensor) -> Tensor:
            parts.update(self.objective(task, self.alpha.by_label(), weights, self.own_epoch)[1])
            return parts["total"]

        self.alpha_optimizer.zero_grad()
        loss = self.descend(self.replica, self.weight_optimizer, training, weights, total=total)
        gradients = [torch.zeros_like(alpha) if alpha.grad is None else alpha.grad for alpha in self.alpha.parameters()]
        self.alpha_optimizer.zero_grad()
        means = self.context(training, training).add_gradient(gradients, parts)
        if self.budgets:
            self.multipliers.add_gradient(self.alpha, self.relaxation)
        self.alpha_optimizer.step()
        return {**means, "train": loss}

    def descend(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        batch: Batch,
        *weights: Weights,
        total: Callable[[Tensor], Tensor] = lambda task: task,
    ) -> Tensor:
        """Move the weights of a supernet, or without ``weights`` of a network, once on a batch; return the task loss.

        What they descend on is the ``total`` of the task loss.
        """
        optimizer.zero_grad()
        with self._autocast:
            loss = self.objective.task(network(batch[0], *weights), batch[1])
        total(loss).backward()
        if self.plan.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.plan.grad_clip_norm)
        optimizer.step()
        return self._average([loss.detach()])[0]

    def next_batch(self, stream: Stream) -> Batch:
        """Return the next batch of a stream, on the device."""
        inputs, target = stream.next()
        return to_device(inputs, self.device), to_device(target, self.device)

    @torch.no_grad()
    def record(self, epoch: int, genotype: Genotype | None = None, selection: Mapping[str, float] | None = None) -> Record:
        """Entry of an epoch in the history: alpha, beta, mean losses, lambda, expected cost, genotype, seconds.

        The genotype is by default :meth:`genotype`; ``selection`` are numbers on how it was chosen.
        """
        weights, genotype = self.beta(), genotype or self.genotype()
        own_epoch = self.plan.own_epoch(epoch) if epoch else 0
        # Losses of alpha exist only after the warm-up.
        alpha_steps = 0 if own_epoch <= self.plan.warmup_epochs else self.plan.steps_per_epoch
        counts = {name: self.plan.steps_per_epoch if name == "train" else alpha_steps for name in self.sums}
        return {
            "epoch": epoch,
            "step": self.step,
            "alpha": {label: logits.tolist() for label, logits in self.alpha.logits.items()},
            "beta": {label: weight.tolist() for label, weight in weights.items()},
            "loss": {name: total / counts[name] for name, total in self.sums.items()},
            "lambda": self.objective.strength(own_epoch),
            "expected_cost": {name: expected_cost(weights, table).item() for name, (_, table) in self.objective.costs.items()},
            "genotype": genotype.to_json(),
            "seconds": self.seconds,
            **({"over_epochs": {name: at(own_epoch) for name, at in self.over_epochs.items()}} if self.over_epochs else {}),
            **({"stop": self.verdict[0]} if self.verdict[0] else {}),
            **({"stopped": self.verdict[1]} if self.stopped else {}),
            **({"selection": dict(selection)} if selection else {}),
            **({"budget": self.budget_record(weights, genotype)} if self.budgets else {}),
        }

    def budget_record(self, weights: Weights, genotype: Genotype) -> Record:
        """Name of a budget -> its ``limit``, ``multiplier``, and the cost ``expected``, of the ``argmax`` and ``decoded``."""
        choices, argmax = self.space.choices(), self.space.decode(weights)
        return {
            name: {
                "limit": cost.limit,
                "expected": cost.expected(weights).item(),
                "argmax": cost.of(argmax, choices),
                "decoded": cost.of(genotype, choices),
                "multiplier": self.multipliers.values.get(name, 0.0),
            }
            for name, cost in self.budgets.items()
        }

    @torch.no_grad()
    def beta(self) -> dict[str, Tensor]:
        """Label -> weights of its candidates that networks are chosen by: those of alpha, or their geometric mean over restarts.

        What is accident in one search is less of it in the mean (docs/evidence.md), which is scaled to the sum of the weights.
        """
        now = self.alpha.relax(self.relaxation)
        if not self.finished:
            return now
        mean = {}
        for label, weights in now.items():
            every = torch.cat([self.ends[label][: self.finished], weights[None]])
            product = every.clamp_min(torch.finfo(every.dtype).tiny).log().mean(dim=0).exp()
            mean[label] = product * (every.sum() / len(every) / product.sum())
        return mean

    def genotype(self) -> Genotype:
        """The network that alpha prefers now among those within all budgets."""
        return decode(self.space, self.beta(), list(self.budgets.values()))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on; tensors and plain values only. Raises as :meth:`read_losses`."""
        self.read_losses()
        state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return {
            "step": self.step,
            "stopped": self.stopped,
            "sums": dict(self.sums),
            "seconds": self.seconds,
            "finished": self.finished,
            "ends": self.ends,
            **state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._unread = []
        self.finished = count_of(state["finished"], self.plan.restarts - 1)
        self.ends = {label: beta.to(self.device).clone() for label, beta in state["ends"].items()}
        self.stopped = 0
        self.stopped = count_of(state["stopped"], self.steps)
        self.step, self.sums, self.seconds = count_of(state["step"], self.steps), dict(state["sums"]), float(state["seconds"])
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self._record_anew()

    def _record_anew(self) -> None:
        """Drop recordings of steps, of which the state of the optimizers has been replaced."""
        self._recorded = recorded(self) if self.plan.cuda_graph and not self.not_recorded else None

    def read_losses(self) -> None:
        """Add the losses since the last call to the sums of the epoch; raise UserError where one is no longer finite."""
        unread, self._unread = self._unread, []
        for step, losses in unread:
            for name, value in zip(losses, torch.stack(list(losses.values())).tolist(), strict=True):
                if not abs(value) < float("inf"):
                    raise UserError(f"the {name} loss is {value} at step {step}. {_ADVICE} The last checkpoint is from before.")
                self.sums[name] = self.sums.get(name, 0.0) + value

    def _in_pass(self, number: int) -> Callable[[Tensor], Tensor]:
        return in_pass(self.relaxation, (self.plan.seed, self.step, number), self.progress)
