"""Compare runs: what was predicted before each was paid for, beside what came out, and what it all adds up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from patron_core.lifecycle.workload import foreign_spec
from patron_core.scaling import Fit, outside, predict
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs.measured import fit_of
from trainer.contract.recipe import Recipe
from trainer.contract.spec import TrainSpec

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One run: prediction against outcome. None where it has no outcome yet."""

    run: str
    name: str
    state: str
    reason: str | None
    spec: dict[str, Any]
    workload: str  # trainer, or the name of foreign code
    depth: int | None  # of foreign code nobody here knows, nor what it trains
    num_params_scaling: int | None
    train_tokens: int | None
    predicted_bpb_low: float | None
    predicted_bpb: float | None
    predicted_bpb_high: float | None
    val_bpb: float | None
    predicted_wall_s: float | None
    predicted_wall_s_high: float | None
    wall_s: float  # machine time of its train attempts, as charged
    predicted_usd_micros: int | None
    held_usd_micros: int  # what funding held: the promise that it would not cost more
    charged_usd_micros: int  # dryrun included
    train_usd_micros: int
    mfu: float | None
    tokens_per_s: float | None
    peak_memory_bytes: int | None
    attempts: int

    @property
    def cut_short_words(self) -> str:
        """What to say beside a val_bpb of a run that did not come to its last step; empty where it did, or has none."""
        if self.val_bpb is None or self.state == RunState.SUCCEEDED:
            return ""
        return f", cut short: {self.state}" + (f" ({self.reason})" if self.reason else "")

    @property
    def bpb_error(self) -> float | None:
        """(actual - predicted) / predicted."""
        if self.val_bpb is None or not self.predicted_bpb:
            return None
        return self.val_bpb / self.predicted_bpb - 1.0

    @property
    def wall_error(self) -> float | None:
        if self.val_bpb is None or not self.predicted_wall_s:
            return None
        return self.wall_s / self.predicted_wall_s - 1.0

    @property
    def cost_error(self) -> float | None:
        if self.val_bpb is None or not self.predicted_usd_micros:
            return None
        return self.train_usd_micros / self.predicted_usd_micros - 1.0

    def to_dict(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["spec"]
        return figures | {
            "bpb_error": self.bpb_error,
            "wall_error": self.wall_error,
            "cost_error": self.cost_error,
        }


def compare(store: Store, run_ids: Sequence[str]) -> list[Comparison]:
    """In the order asked for. The prediction is the one made at funding, not one made with hindsight."""
    return [_row(store, runs.get_run(store, run_id)) for run_id in run_ids]


def comparison_frame(rows: Sequence[Comparison]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([row.to_dict() for row in rows], infer_schema_length=None)


def of_one_corpus(rows: Sequence[Comparison]) -> tuple[str, list[Comparison]]:
    """The corpus of most of them, and its runs: each corpus has a law of its own, foreign code none."""
    corpora = [str(row.spec["data"]) for row in rows if "data" in row.spec] or ["stdlib"]
    corpus = max(corpora, key=corpora.count)
    return corpus, [row for row in rows if row.spec.get("data") == corpus]


def scaling_fit(store: Store, corpus: str) -> Fit:
    """The loss law of a corpus, refitted to every run that finished on it."""
    return fit_of(store, corpus)


def where_next(fit: Fit, rows: Sequence[Comparison]) -> str:
    """Which depth the loss law would train with the compute that the best run had."""
    done = [row for row in rows if row.val_bpb is not None and row.depth is not None]
    if not done:
        return "Nothing has finished yet."
    best = min(done, key=lambda row: row.val_bpb or 0.0)
    best_depth, best_tokens = best.depth or 1, best.train_tokens or 1
    flops = 6.0 * (best.num_params_scaling or 1) * best_tokens
    options = []
    for depth in range(1, 2 * best_depth + 2):
        num_params = _recipe_of(best.spec, depth).num_params.scaling
        options.append((predict(fit, num_params, flops / (6.0 * num_params)), depth, num_params))
    expected, depth, num_params = min(options, key=lambda option: option[0].mid)
    if depth == best_depth or expected.mid > 0.99 * (best.val_bpb or 0.0):
        return (
            f"Depth {best_depth} is about right for its compute: the next gain is in more time, or in another recipe."
        )
    guess = ", an extrapolation" if outside(fit, num_params, flops / (6.0 * num_params)) > 0 else ""
    return (
        f"With the compute of that depth {best_depth}, the law would train depth {depth} on "
        f"{flops / (6.0 * num_params) / best_tokens:.1f}x as many tokens: val_bpb {expected.mid:.3f} "
        f"({expected.low:.3f} to {expected.high:.3f}{guess})."
    )


def _recipe_of(spec: Mapping[str, Any], depth: int) -> Recipe:
    shape = {key: value for key, value in spec.items() if key not in ("num_steps", "horizon_tokens", "dim")}
    return TrainSpec.from_dict({**shape, "depth": depth}).recipe()


def _row(store: Store, run: Run) -> Comparison:
    code = foreign_spec(run)
    recipe = TrainSpec.from_dict(run.spec).recipe() if code is None else None
    money = ledger.run_money(store, run.id)
    made = [a for a in attempts.for_run(store, run.id) if a.kind == "train"]
    estimate = run.estimate or {}
    bpb, wall, cost = (estimate.get(key) or {} for key in ("val_bpb", "wall_s", "cost_usd_micros"))
    result = run.result or {}
    return Comparison(
        run=run.id,
        name=run.name,
        state=run.state.value,
        reason=run.reason.value if run.reason else None,
        spec=run.spec,
        workload=run.workload if code is None else code.name,
        depth=recipe.depth if recipe else None,
        num_params_scaling=recipe.num_params.scaling if recipe else None,
        train_tokens=recipe.train_tokens if recipe else None,
        predicted_bpb_low=bpb.get("low"),
        predicted_bpb=bpb.get("mid"),
        predicted_bpb_high=bpb.get("high"),
        val_bpb=result.get("val_bpb"),
        predicted_wall_s=wall.get("mid"),
        predicted_wall_s_high=wall.get("high"),
        wall_s=sum(a.charged_s for a in made),
        predicted_usd_micros=cost.get("mid"),
        held_usd_micros=money.funded_usd_micros,
        charged_usd_micros=money.charged_usd_micros,
        train_usd_micros=sum(a.charged_usd_micros for a in made),
        mfu=result.get("mfu"),
        tokens_per_s=result.get("tokens_per_s"),
        peak_memory_bytes=result.get("peak_memory_bytes"),
        attempts=len(made),
    )
