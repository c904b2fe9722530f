"""What the tables of the notebooks show: one list of columns a kind of row, for terminal and page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from patron_core.ui import show
from patron_core.ui.show import Column

if TYPE_CHECKING:
    from patron_core.scaling.seeds import Group, GroupComparison
    from patron_core.store.alerts import Alert
    from patron_core.verbs import Comparison, FieldDifference

# the notebook where a run in this state goes on; all others are watched
GOES_ON_IN = {"awaiting_funding": "3_launch", "funded": "3_launch", "paused": "3_launch", "draft": "2_dryrun"}


Page = Callable[[str, str], "str | None"]  # (notebook, run id) -> the address of a run in a notebook


def runs(page: Page, whose: Mapping[str, str]) -> list[Column]:
    """Runs of a lab. `whose` says of each, where it is not always the same, who planned it and where it runs."""
    return [
        Column("run", lambda r: run_mark(r.run.state.value, r.label, r.run.id, page), "left"),
        Column("id", lambda r: r.run.id, "left"),
        Column("state", lambda r: show.mark(r.run.state.value), "left"),
        Column("why", lambda r: show.plain(r.run.reason.value) if r.run.reason else show.DASH, "left"),
        Column("depth", lambda r: show.DASH if r.run.depth is None else str(r.run.depth)),
        Column("device", lambda r: r.run.device, "left"),
        Column("done", lambda r: show.DASH if r.progress is None else f"{r.progress:.0%}"),
        Column("val_bpb", lambda r: show.bpb(r.val_bpb)),
        Column("held", lambda r: show.usd(r.money.held_usd_micros)),
        Column("charged", lambda r: show.usd(r.money.charged_usd_micros)),
        Column("changed", lambda r: show.moment(r.run.updated_at), "left"),
        Column("tags", lambda r: ", ".join(r.tags), "left"),
        *([Column("whose", lambda r: whose[r.run.id], "left")] if whose else []),
    ]


def waiting(page: Page) -> list[Column]:
    """What waits for a person."""
    return [
        Column("run", lambda w: run_mark(w.run.state.value, w.run.name, w.run.id, page), "left"),
        Column("state", lambda w: show.mark(w.run.state.value), "left"),
        Column("what it waits for", lambda w: show.one_line(w.words, 160), "left", wraps=True),
        Column("or, in a shell", lambda w: show.one_line(w.next, 90), "left", wraps=True),
    ]


def under_way(page: Page) -> list[Column]:
    return [
        Column("run", lambda r: run_mark(r.run.state.value, r.label, r.run.id, page), "left"),
        Column("state", lambda r: show.mark(r.run.state.value), "left"),
        Column("step", lambda r: show.DASH if r.step is None else f"{r.step:,} of {r.run.num_steps or 0:,}"),
        Column("val_bpb", lambda r: show.bpb(r.val_bpb)),
        Column("charged", lambda r: show.usd(r.money.charged_usd_micros)),
        Column("still held", lambda r: show.usd(r.money.held_usd_micros)),
        Column("device", lambda r: r.run.device, "left"),
    ]


def run_groups(by: str) -> list[Column]:
    """Runs that share a value of `by`."""
    return [
        Column(by, lambda g: g.value, "left"),
        Column("runs", lambda g: f"{g.num_runs:,}"),
        Column("best val_bpb", lambda g: show.bpb(g.best.val_bpb if g.best else None)),
        Column("of run", lambda g: g.best.label if g.best else show.DASH, "left"),
        Column("charged", lambda g: show.usd(g.charged_usd_micros)),
        Column("held", lambda g: show.usd(g.held_usd_micros)),
    ]


def run_mark(state: str, name: str, run_id: str, page: Page) -> show.Mark:
    """Its name, which leads to where a run in this state goes on."""
    return show.Mark(name, href=page(GOES_ON_IN.get(state, "4_watch"), run_id))


def statement(names: Mapping[str, str]) -> list[Column]:
    """Entries of the ledger. `names` of runs by their ids."""

    def account(said: str) -> str:
        kind, _, whose = said.partition(":")
        return f"{kind} of {names.get(whose, whose)}" if whose else said

    return [
        Column("time", lambda e: show.moment(e.time), "left"),
        Column("what", lambda e: show.plain(e.kind), "left"),
        Column("amount", lambda e: show.usd(e.usd_micros)),
        Column("from", lambda e: account(e.source), "left"),
        Column("to", lambda e: account(e.target), "left"),
        Column("who", lambda e: e.actor, "left"),
    ]


def estimates() -> list[Column]:
    return [
        Column("depth", lambda r: str(r.recipe.depth)),
        Column("device", lambda r: r.device.name, "left"),
        Column("verdict", lambda r: show.mark(str(r.verdict)), "left"),
        Column("wall time", lambda r: show.between(r.wall_s, show.seconds)),
        Column("cost", lambda r: show.between(r.cost_usd_micros, show.usd)),
        Column("val_bpb", lambda r: show.between(r.val_bpb, show.bpb)),
        Column("params", lambda r: show.count(r.num_params["total"])),
        Column("w/o v-emb", lambda r: show.count(r.num_params["without_value_embeds"])),
        Column("scaling", lambda r: show.count(r.num_params["scaling"])),
        Column("tokens", lambda r: show.count(r.recipe.train_tokens)),
        Column("FLOPs", lambda r: show.flops(r.recipe.train_flops)),
        Column("memory", lambda r: show.size(r.memory.peak_bytes.high)),
        Column("step", lambda r: show.seconds(r.step_s.mid)),
    ]


def prices() -> list[Column]:
    return [
        Column("machine", lambda p: p.machine, "left"),
        Column("where", lambda p: p.infra or show.DASH, "left"),
        Column("kind", lambda p: p.kind, "left"),
        Column("an hour", lambda p: show.usd(p.usd_micros_per_hour)),
        Column("a GPU hour", lambda p: show.usd(p.usd_micros_per_gpu_hour)),
        Column("as of", lambda p: p.as_of),
    ]


def places() -> list[Column]:
    """Candidates of a placement, the chosen one and those that were not."""
    return [
        Column("machine", lambda o: o.price.machine, "left"),
        Column("where", lambda o: o.price.infra or show.DASH, "left"),
        Column("way", lambda o: str(o.way).replace("_", " "), "left"),
        Column("an hour", lambda o: show.usd(o.price.usd_micros_per_hour)),
        Column("expected", lambda o: show.usd(o.cost_usd_micros)),
        Column("at worst", lambda o: show.usd(o.hold_usd_micros)),
        Column("takes", lambda o: show.seconds(o.wall_s)),
        Column("why not", lambda o: o.why_not or "chosen", "left", wraps=True),
    ]


def checks() -> list[Column]:
    """Of `patron doctor`."""
    return [
        Column("", lambda c: show.mark(c.status), "left"),
        Column("what", lambda c: c.name, "left"),
        Column("found", lambda c: c.found, "left", wraps=True),
        Column("what mends it", lambda c: c.next or show.DASH, "left", wraps=True),
    ]


def measured() -> list[Column]:
    """(what, estimated, measured) of a dryrun."""
    return [
        Column("", lambda pair: pair[0], "left"),
        Column("estimated", lambda pair: pair[1]),
        Column("measured, or with it", lambda pair: pair[2]),
    ]


def history() -> list[Column]:
    """Changes of a run."""
    return [
        Column("time", lambda e: show.moment(e.time), "left"),
        Column("who", lambda e: e.actor, "left"),
        Column("what", lambda e: show.mark(e.new.value) if e.new else show.plain(e.kind), "left"),
        Column("detail", lambda e: str(e.detail.get("detail", "")), "left", wraps=True),
    ]


def accuracy() -> list[Column]:
    """How good the forecasts of each quantity were."""
    return [
        Column("of", lambda a: a.group, "left"),
        Column("forecast of", lambda a: _QUANTITIES[a.quantity][0], "left"),
        Column("made", lambda a: _STAGES[a.stage], "left"),
        Column("runs", lambda a: str(a.runs)),
        Column("mean error", lambda a: show.percent(a.mean_abs_error)),
        Column("bias", lambda a: show.percent(a.bias, signed=True)),
        Column("inside the interval", lambda a: show.percent(a.coverage)),
        Column("interval should be", lambda a: show.DASH if a.stretch is None else f"{a.stretch:.2f} x as wide"),
    ]


def forecasts() -> list[Column]:
    """Each forecast beside what came out."""
    return [
        Column("run", lambda f: f.name, "left"),
        Column("device", lambda f: f.device, "left"),
        Column("corpus", lambda f: f.corpus, "left"),
        Column("depth", lambda f: show.DASH if f.depth is None else str(f.depth)),
        Column("forecast of", lambda f: _QUANTITIES[f.quantity][0], "left"),
        Column("made", lambda f: _STAGES[f.stage], "left"),
        Column("said", lambda f: show.between((f.low, f.mid, f.high), _QUANTITIES[f.quantity][1])),
        Column("came out", lambda f: _QUANTITIES[f.quantity][1](f.actual)),
        Column("error", lambda f: show.percent(f.error, signed=True)),
        Column("inside", lambda f: show.yes_no(f.is_inside)),
    ]


_QUANTITIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_bpb": ("val_bpb", show.bpb),
    "step_s": ("step", show.seconds),
    "wall_s": ("time", show.seconds),
    "cost_usd_micros": ("cost", lambda micros: show.usd(round(micros))),
    "peak_memory_bytes": ("memory", show.size),
}
_STAGES = {"plan": "before the dryrun", "funding": "at funding"}


def sweep_groups(comparison: GroupComparison) -> list[Column]:
    """Cells of a sweep, each against the best."""
    contrasts = {contrast.other: contrast for contrast in comparison.contrasts}

    def worse(group: Group) -> str:
        found = contrasts.get(group.label)
        if found is None:
            return "best"
        between = f" ({found.interval.low:+.4f} to {found.interval.high:+.4f})" if found.interval else ""
        return f"{found.difference:+.4f}{between}"

    def is_real(group: Group) -> str:
        found = contrasts.get(group.label)
        if found is None or found.p_value is None:
            return show.DASH
        return f"{'yes' if found.is_real else 'no'} (p {found.p_value:.2g})"

    return [
        Column("values", lambda g: g.label, "left"),
        Column("runs", lambda g: str(g.num_runs)),
        Column("mean val_bpb", lambda g: f"{g.mean:.4f}"),
        Column("spread of seeds", lambda g: show.DASH if g.spread is None else f"{g.spread:.4f}"),
        Column("against the best", worse, "left"),
        Column("real?", is_real, "left"),
    ]


def spec_differences(rows: Sequence[Comparison]) -> list[Column]:
    """Fields in which runs differ, a column a run."""

    def value_of(number: int) -> Callable[[FieldDifference], str]:
        return lambda difference: show.one_line(str(difference.values[number]), 40)

    named = [Column(show.one_line(row.name, 40), value_of(number), "left") for number, row in enumerate(rows)]
    return [Column("field", lambda d: d.field, "left"), *named]


def sweep_runs() -> list[Column]:
    """Runs of a sweep."""
    return [
        Column("run", lambda r: r.outcome.name, "left"),
        Column("state", lambda r: show.mark(r.outcome.state), "left"),
        Column("seed", lambda r: str(r.seed)),
        Column("predicted bpb", lambda r: show.bpb(r.outcome.predicted_bpb)),
        Column("val_bpb", lambda r: show.bpb(r.outcome.val_bpb)),
        Column("time", lambda r: show.seconds(r.outcome.wall_s) if r.outcome.wall_s else show.DASH),
        Column("cost", lambda r: show.usd(r.outcome.charged_usd_micros)),
    ]


def approvals() -> list[show.Column]:
    """Holds that tokens asked for and that wait for a person."""
    return [
        show.Column("asked", lambda a: show.moment(a.created_at), "left"),
        show.Column("by", lambda a: a.token, "left"),
        show.Column("for run", lambda a: f"{a.run_name} ({a.run_id})", "left"),
        show.Column("to hold", lambda a: show.usd(a.usd_micros)),
        show.Column("decide", lambda a: f"patron approve --id {a.id} --word WHY --yes", "left"),
    ]


def alerts(watch: Callable[[str], str | None] = lambda run_id: None) -> list[Column]:
    """What people are told of. `watch` makes the address of a run."""
    return [
        Column("", lambda a: "" if a.seen_at else show.Mark("new", "live"), "left"),
        Column("when", lambda a: show.moment(a.time), "left"),
        Column("what", lambda a: show.mark(a.kind), "left"),
        Column("run", lambda a: show.Mark(a.name, href=watch(a.run_id) if a.run_id else None), "left"),
        Column("said", lambda a: a.sentence, "left", wraps=True),
        Column("sent", lambda a: ", ".join(sent(a)) or show.DASH, "left"),
        Column("next", lambda a: a.next, "left", wraps=True),
    ]


def sent(alert: Alert) -> list[str]:
    """What became of it, a channel each."""
    return [f"{name}: {came.get('error', 'sent')}" for name, came in alert.deliveries.items()]


def feedback() -> list[Column]:
    """What was said of Patron, and the owner's answers."""
    return [
        Column("when", lambda f: show.moment(f.created_at), "left"),
        Column("by", lambda f: f.actor, "left"),
        Column("about", lambda f: f.about or show.DASH, "left"),
        Column("said", lambda f: f.body, "left"),
        Column("answer", lambda f: f.answer or show.DASH, "left"),
        Column("id", lambda f: f.id, "left"),
    ]
