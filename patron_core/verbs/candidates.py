"""What a search can try: every device and number of it, depth, window and micro-batch, each fitted to the time and the
money."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from patron_core.errors import Refused
from patron_core.estimate import BudgetFit, fit_to_budget
from patron_core.estimate.wall import REMOTE_SHARD_BYTES, bytes_per_token
from patron_core.machines.target import LOCAL_DEVICE, Target
from patron_core.prices import Price
from patron_core.scaling import Candidate as Forecast
from patron_core.scaling import regime
from patron_core.store import Store
from patron_core.store.records import Run
from patron_core.verbs import free_checks
from patron_core.verbs.measured import fit_of, proven_calibration
from patron_core.verbs.question import Question
from patron_core.verbs.spec_door import defaults_for, spec_on
from trainer.contract.devices import Device
from trainer.contract.spec import PATH, SpecError, TrainSpec

MICRO_BATCHES = (8, 16, 32, 64, 128)  # sequences; the larger, the fuller a GPU, as far as its memory goes
MEMORY_SHARE = 0.92  # of a device's memory that a measured peak may be expected to take
SHARDS_MARGIN = 1.5  # a machine that turns out faster than estimated trains on more


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to answer: a spec on a device. `label` names it in keys."""

    label: str
    device: str  # a name of Question.machines
    target: Target
    spec: TrainSpec

    @property
    def words(self) -> str:
        """As people read it."""
        where = "" if self.device == LOCAL_DEVICE else f" on {self.target.words}"
        return f"Depth {self.spec.depth}{where}"

    @property
    def micro_batch_size(self) -> int:
        return self.spec.micro_batch_size(self.target.world.ranks)

    @property
    def shape_words(self) -> str:
        return f"micro-batch {self.micro_batch_size}, windows {self.spec.window_pattern}"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    candidate: Candidate
    fit: BudgetFit
    run: Run | None = None  # what was measured

    @property
    def bpb(self) -> float:
        return self.fit.estimate.val_bpb.mid

    @property
    def forecast(self) -> Forecast:
        """As the loss law takes it."""
        recipe, spec = self.fit.estimate.recipe, self.fit.spec
        return Forecast(
            label=self.candidate.label,
            num_params=recipe.num_params.scaling,
            num_tokens=recipe.train_tokens,
            regime=regime(spec.vocab_size, spec.sequence_len),
        )


class Candidates:
    """`say`: told of what takes a while."""

    def __init__(self, store: Store, question: Question, say: Callable[[str], None]):
        self.store, self.question, self._say = store, question, say
        self._devices: dict[str, tuple[Device, Price]] = {}
        self._tokens: dict[str, int | None] = {}

    def device(self, name: str) -> tuple[Device, Price]:
        """Looked up once. Raises Refused for a price that is not known or not plausible."""
        if name not in self._devices:
            target = self.question.machines[name]
            self._devices[name] = (target.find_device(self.store), target.find_price())
        return self._devices[name]

    def each(self) -> Iterator[tuple[str, int, list[Candidate]]]:
        """(device, depth, all windows and micro-batches of it)"""
        machines = self.question.machines
        for name, depth in itertools.product(machines, self.question.all_depths):
            device = machines[name].find_device(self.store)
            base = spec_on(device, self.question.spec | {"depth": depth})
            base = replace(base, batch_tokens=base.recipe().batch_tokens)
            yield name, depth, [self.of(name, each) for each in self._shapes(base, machines[name].world.ranks)]

    def of(self, device: str, spec: TrainSpec) -> Candidate:
        target = self.question.machines[device]
        short = "" if device == LOCAL_DEVICE else f"{device} "
        label = f"{short}d{spec.depth} {spec.window_pattern} b{spec.micro_batch_size(target.world.ranks)}"
        return Candidate(label=label, device=device, target=target, spec=spec)

    def _shapes(self, base: TrainSpec, ranks: int) -> list[TrainSpec]:
        """None where a step cannot be divided over so many ranks."""
        windows = self.question.windows or (base.window_pattern,)
        sizes: tuple[int | None, ...] = (base.device_batch_size,)
        if not self.question.is_local and base.device_batch_size is None:
            sizes = tuple(size for size in MICRO_BATCHES if _divides(base, size, ranks)) or (None,)
        sizes = tuple(size for size in sizes if _divides(base, size, ranks))
        return [
            replace(base, window_pattern=window, device_batch_size=size)
            for window, size in itertools.product(windows, sizes)
        ]

    def variants(self, best: Fitted) -> list[Candidate]:
        """Of a candidate that was measured: the next larger micro-batch, if its measured memory allows, then the other
        windows. What the question gives is not varied."""
        spec, peak = best.candidate.spec, _measured(best.run).get("peak_memory_bytes")
        memory = self.device(best.candidate.device)[0].memory_bytes
        found: list[TrainSpec] = []
        if self.question.spec.get("device_batch_size") is None and peak and 2 * peak <= MEMORY_SHARE * memory:
            size = 2 * best.candidate.micro_batch_size
            if _divides(spec, size, best.candidate.target.world.ranks):
                found.append(replace(spec, device_batch_size=size))
        found += [replace(spec, window_pattern=w) for w in self.question.windows if w != spec.window_pattern]
        return [self.of(best.candidate.device, each) for each in found[: self.question.variants]]

    def fit(self, candidate: Candidate, budget_usd_micros: int, run: Run | None = None) -> Fitted:
        """The longest run of it that fits; by its upper bound where `run` measured it. Raises Refused."""
        device, price = self.device(candidate.device)
        calibration = proven_calibration(self.store, run) if run is not None else None
        found = _measured(run).get("train_tokens_available")
        fit = fit_to_budget(
            candidate.spec,
            device,
            price=price,
            budget_s=60 * self.question.minutes,
            budget_usd_micros=max(1, budget_usd_micros),
            calibration=calibration,
            fit=fit_of(self.store, candidate.spec.data),
            local=candidate.target.is_local,
            prepared=candidate.target.is_local,  # by the first dryrun: data is made once for all depths
            bound="high" if calibration else "mid",
            max_train_tokens=self._available(candidate.spec) if found is None else found,
            world=candidate.target.world,
        )
        return Fitted(candidate=candidate, fit=fit, run=run)

    def best_of(self, candidates: list[Candidate], budget_usd_micros: int) -> Fitted:
        """The one with the lowest expected val_bpb of a device and depth; of equals the smaller memory. Raises the last
        Refused where none fits."""
        if not candidates:
            raise Refused(
                "its step cannot be divided over so many GPUs", next="take other --gpus, or another --batch-tokens"
            )
        found: list[Fitted] = []
        why: Refused | None = None
        for candidate in candidates:
            try:
                fitted = self.fit(candidate, budget_usd_micros)
                if fitted.fit.spec.device_batch_size in (None, candidate.spec.device_batch_size):  # else: no memory
                    found.append(fitted)
            except Refused as error:
                why = error
        if not found:
            raise why or Refused("no micro-batch fits its memory", next="take smaller --depths")
        return min(found, key=lambda one: (one.bpb, one.fit.estimate.memory.peak_bytes.high))

    def planned(self, fitted: Fitted) -> TrainSpec:
        """The spec to plan: with as many shards of a remote source as the horizon may need, and no more."""
        spec, recipe = fitted.fit.spec, fitted.fit.estimate.recipe
        if spec.data_shards is not None or spec.data == "stdlib" or spec.data.startswith(PATH):
            return spec
        text_bytes = SHARDS_MARGIN * recipe.train_tokens * bytes_per_token(spec.vocab_size)
        return replace(spec, data_shards=math.ceil(text_bytes / REMOTE_SHARD_BYTES) + 1)

    def corpora(self) -> list[str]:
        """The data of each device, as measurements name it."""
        found = [self.question.corpus(defaults_for(self.device(name)[0])) for name in self.question.machines]
        return list(dict.fromkeys(found))

    def _available(self, spec: TrainSpec) -> int | None:
        """Tokens that a run has to train on, counted once; all depths share them. None where that is not known."""
        if spec.data not in self._tokens:
            if spec.data.startswith(PATH):
                self._say(f"counting the tokens of {spec.data}")
            self._tokens[spec.data] = free_checks.train_tokens(spec)
        return self._tokens[spec.data]


def _divides(spec: TrainSpec, micro_batch_size: int | None, ranks: int) -> bool:
    try:
        replace(spec, device_batch_size=micro_batch_size).micro_batch_size(ranks)
    except SpecError:
        return False
    return True


def _measured(run: Run | None) -> dict[str, Any]:
    return dict(run.dryrun["measured"]) if run is not None and run.dryrun else {}
