"""What an estimate means against a budget: one word and a sentence with the numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from patron_core.errors import InvalidInput
from patron_core.estimate.memory import Memory
from patron_core.interval import Interval
from patron_core.money import format_usd

TOO_SMALL_BELOW = 0.30  # of the budget, by the expected value
UNDERSIZED_BELOW = 0.65


class Verdict(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"
    OVER_BUDGET = "over_budget"
    SWEET_SPOT = "sweet_spot"
    UNDERSIZED = "undersized"
    TOO_SMALL = "too_small"
    NO_BUDGET = "no_budget"  # nothing to judge it by


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Time, money, both or neither; and what an hour may cost, beside what it does."""

    s: float | None = None
    usd_micros: int | None = None
    max_usd_micros_per_hour: int | None = None
    usd_micros_per_hour: int = 0

    @property
    def is_too_dear(self) -> bool:
        return self.max_usd_micros_per_hour is not None and self.usd_micros_per_hour > self.max_usd_micros_per_hour

    def __str__(self) -> str:
        parts = []
        if self.s is not None:
            parts.append(f"{self.s / 60:.0f} min" if self.s >= 100 else f"{self.s:.0f} s")
        if self.usd_micros is not None:
            parts.append(format_usd(self.usd_micros))
        return " and ".join(parts)

    def share(self, wall_s: float, cost_usd_micros: int) -> float | None:
        """Of whichever is scarcer; None without a budget."""
        shares = []
        if self.s is not None:
            shares.append(wall_s / self.s)
        if self.usd_micros is not None:
            shares.append(cost_usd_micros / self.usd_micros)
        return max(shares, default=None)


def check_budget(budget_s: float | None, budget_usd_micros: int | None) -> None:
    """Raises InvalidInput for one that is not above 0."""
    problems = []
    if budget_s is not None and not budget_s > 0:
        problems.append(f"budget_s: {budget_s!r}; allowed above 0")
    if budget_usd_micros is not None and budget_usd_micros <= 0:
        problems.append(f"budget_usd_micros: {budget_usd_micros!r}; allowed above 0")
    if problems:
        raise InvalidInput(problems, next="give a budget above 0, for instance one hour and $10")


def judge(memory: Memory, wall_s: Interval, cost_usd_micros: tuple[int, int, int], budget: Budget) -> Verdict:
    """By the expected time and cost, and the upper bound of memory."""
    if not memory.fits:
        return Verdict.OUT_OF_MEMORY
    if budget.is_too_dear:
        return Verdict.OVER_BUDGET
    return judge_share(budget.share(wall_s.mid, cost_usd_micros[1]))


def judge_share(share: float | None) -> Verdict:
    """Of a budget; None where there is none."""
    if share is None:
        return Verdict.NO_BUDGET
    if share > 1:
        return Verdict.OVER_BUDGET
    if share < TOO_SMALL_BELOW:
        return Verdict.TOO_SMALL
    return Verdict.UNDERSIZED if share < UNDERSIZED_BELOW else Verdict.SWEET_SPOT


def explain(
    memory: Memory, wall_s: Interval, cost_usd_micros: tuple[int, int, int], budget: Budget, micro_batch_size: int
) -> str:
    """The verdict as a sentence with its numbers."""
    verdict = judge(memory, wall_s, cost_usd_micros, budget)
    if verdict is Verdict.OUT_OF_MEMORY:
        return _memory_sentence(memory, micro_batch_size)
    plan = f"Takes {minutes(wall_s)} and {dollars(cost_usd_micros)}"
    if budget.is_too_dear:
        hourly, most = format_usd(budget.usd_micros_per_hour), format_usd(budget.max_usd_micros_per_hour or 0)
        return f"{plan} at {hourly} an hour, and PATRON_MAX_USD_PER_HOUR allows {most}."
    share = budget.share(wall_s.mid, cost_usd_micros[1])
    upper = budget.share(wall_s.high, cost_usd_micros[2])
    if share is None or upper is None:
        return f"{plan}; give a budget in time or money to judge it."
    if verdict is Verdict.OVER_BUDGET:
        return f"{plan}: {f'{share - 1:.0%} more than' if share < 2 else f'{share:.1f}x'} the budget of {budget}."
    advice = {
        Verdict.TOO_SMALL: " A far larger model fits.",
        Verdict.UNDERSIZED: " A larger model, or more steps, fits.",
    }.get(verdict, "")
    risk = f" Its upper bound is {upper - 1:.0%} over." if upper > 1 else ""
    return f"{plan}: {share:.0%} of the budget of {budget}.{advice}{risk}"


def _memory_sentence(memory: Memory, micro_batch_size: int) -> str:
    peak, gb = memory.peak_bytes, 1e9
    need = f"Needs {peak.low / gb:.1f} to {peak.high / gb:.1f} GB of the {memory.usable_bytes / gb:.1f} GB usable"
    need += f", so it runs out with {max(0.01, min(0.99, memory.oom_probability)):.0%},"
    if micro_batch_size > 1:
        return f"{need} at {micro_batch_size} sequences a micro-batch: take device_batch_size {micro_batch_size // 2}."
    return f"{need} at one sequence a micro-batch: take a smaller depth or sequence_len."


def minutes(wall_s: Interval) -> str:
    if wall_s.mid < 100:
        return f"{wall_s.mid:.0f} s ({wall_s.low:.0f} to {wall_s.high:.0f})"
    return f"{wall_s.mid / 60:.0f} min ({wall_s.low / 60:.0f} to {wall_s.high / 60:.0f})"


def dollars(cost_usd_micros: tuple[int, int, int]) -> str:
    low, mid, high = map(format_usd, cost_usd_micros)
    return f"{mid} ({low} to {high})"
