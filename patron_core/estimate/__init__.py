"""What a run will take before it is made: parameters, FLOPs, memory, time, money, loss, and a verdict. Pure.

    estimate(spec, device, price=..., budget_s=3600, budget_usd_micros=10_000_000)      one run
    fit_to_budget(spec, device, price=..., budget_s=..., budget_usd_micros=...)          the longest run that fits

Devices: trainer.contract.devices (DEVICES, find_device, local_device).
Prices: patron_core.prices. Loss: patron_core.scaling.
"""

from patron_core.estimate.calibration import Calibration
from patron_core.estimate.estimating import Estimate, Money, estimate
from patron_core.estimate.memory import Memory
from patron_core.estimate.on_device import compute_dtype, micro_batch_size, size_of_checkpoints
from patron_core.estimate.planning import BudgetFit, TooLittleText, eval_cadence, fit_to_budget
from patron_core.estimate.verdict import Verdict
from patron_core.estimate.wall import corpus_train_tokens, count_evals, eval_steps
from patron_core.interval import Interval

__all__ = [
    "BudgetFit",
    "Calibration",
    "Estimate",
    "Interval",
    "Memory",
    "Money",
    "TooLittleText",
    "Verdict",
    "compute_dtype",
    "corpus_train_tokens",
    "count_evals",
    "estimate",
    "eval_cadence",
    "eval_steps",
    "fit_to_budget",
    "micro_batch_size",
    "size_of_checkpoints",
]
