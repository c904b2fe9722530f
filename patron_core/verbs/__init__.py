"""Everything that a person, an agent or a program can ask of Patron.

    plan -> dryrun -> (amend) -> fund -> launch -> wait/view -> compare -> write_note         search does them all

Each verb is a function of the store, plain arguments, an actor and, where it spends, an idempotency key; each returns
plain typed data and raises a PatronError that says what to do next.
"""

from patron_core.estimate.accuracy import accuracy
from patron_core.lifecycle.supervisor import ensure_running
from patron_core.machines.catalog import CLOUDS, PRICED_CLOUDS
from patron_core.machines.target import LOCAL_DEVICE, MOST_GPUS, MOST_NODES, Target, target_of
from patron_core.money import from_usd, to_usd
from patron_core.states import ACTIVE, TERMINAL, AlertKind, RunState
from patron_core.store.finding import projects
from patron_core.store.hosts import everybody as machines
from patron_core.store.searches import has_key as has_search
from patron_core.store.tags import PINNED
from patron_core.verbs.access import audit_log, decide, list_tokens, make_token, revoke_token, waiting
from patron_core.verbs.alerts import list_alerts, see_alerts, send_test_alert
from patron_core.verbs.amend import amend
from patron_core.verbs.attention import Waiting, waiting_runs
from patron_core.verbs.compare import Comparison, compare, comparison_frame, of_one_corpus, scaling_fit, where_next
from patron_core.verbs.contrasts import (
    FieldDifference,
    frontier,
    noise_sentence,
    seed_noise,
    spec_differences,
    with_distinct_names,
)
from patron_core.verbs.control import cancel, launch, pause
from patron_core.verbs.course import Course, course
from patron_core.verbs.curves import Followed, curve_series, curves
from patron_core.verbs.doctor import Check, Diagnosis, doctor
from patron_core.verbs.dryrun import dryrun, repriced, repriced_any, startup_s
from patron_core.verbs.feedback import answer_feedback, give_feedback, list_feedback
from patron_core.verbs.forecasts import forecasts
from patron_core.verbs.foreign import plan_code
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.journal import KINDS, count_notes, notes_of, read_note, read_notes, revisions, write_note
from patron_core.verbs.lab import Lab, lab, open_lab, project_to_show
from patron_core.verbs.listing import list_runs, run_summary
from patron_core.verbs.money import DEFAULT_PROJECT, deposit, statement, wallet, wallet_dict, withdraw
from patron_core.verbs.next_steps import next_step, plan_again, plan_command, plan_of
from patron_core.verbs.plan import core_prices, device_named, device_names, estimates, plan, preview
from patron_core.verbs.prices import Placed, place, place_depths, place_estimates, prices
from patron_core.verbs.question import Question, SearchReport
from patron_core.verbs.report import RunReport, SearchReportOfRuns, report_of_run, report_of_search
from patron_core.verbs.run_table import (
    GROUPS,
    RunGroup,
    RunRow,
    distinct_names,
    evaluations,
    group_runs,
    run_table,
    tag,
    whose,
)
from patron_core.verbs.search import search
from patron_core.verbs.search_log import goes_on
from patron_core.verbs.shared import shared_view
from patron_core.verbs.spec_door import LOCAL_SPEC, asked_fields, by_fields, defaults_for, grid_of, spec_on
from patron_core.verbs.start import Offer, fund_and_launch, offer
from patron_core.verbs.stop import stop_all
from patron_core.verbs.sweep import SweepEstimate, estimate_sweep, sweep
from patron_core.verbs.sweep_question import Sweep, SweepReport, compare_by
from patron_core.verbs.threads import Thread, threads
from patron_core.verbs.threads import markdown as journal_markdown
from patron_core.verbs.tracked import Tracked, tracked
from patron_core.verbs.watch import (
    ATTENTION,
    RESTING,
    RunView,
    burn_usd_micros_per_hour,
    exit_code,
    find_run,
    log_tail,
    most_pressing,
    num_runs,
    overview,
    view,
    wait,
)
from patron_core.verbs.write_off import write_off
from patron_core.workloads.asking import CodeQuestion, parameters_of
from patron_core.workloads.presets import PRESETS
from trainer.contract.ranks import WorldSize

__all__ = [
    "ACTIVE",
    "ATTENTION",
    "CLOUDS",
    "DEFAULT_PROJECT",
    "GROUPS",
    "KINDS",
    "LOCAL_DEVICE",
    "LOCAL_SPEC",
    "MOST_GPUS",
    "MOST_NODES",
    "PINNED",
    "PRESETS",
    "PRICED_CLOUDS",
    "RESTING",
    "TERMINAL",
    "AlertKind",
    "Check",
    "CodeQuestion",
    "Comparison",
    "Course",
    "Diagnosis",
    "FieldDifference",
    "Followed",
    "Lab",
    "Offer",
    "Placed",
    "Question",
    "RunGroup",
    "RunReport",
    "RunRow",
    "RunState",
    "RunView",
    "SearchReport",
    "SearchReportOfRuns",
    "Sweep",
    "SweepEstimate",
    "SweepReport",
    "Target",
    "Thread",
    "Tracked",
    "Waiting",
    "WorldSize",
    "accuracy",
    "amend",
    "answer_feedback",
    "asked_fields",
    "audit_log",
    "burn_usd_micros_per_hour",
    "by_fields",
    "cancel",
    "compare",
    "compare_by",
    "comparison_frame",
    "core_prices",
    "count_notes",
    "course",
    "curve_series",
    "curves",
    "decide",
    "defaults_for",
    "deposit",
    "device_named",
    "device_names",
    "distinct_names",
    "doctor",
    "dryrun",
    "ensure_running",
    "estimate_sweep",
    "estimates",
    "evaluations",
    "exit_code",
    "find_run",
    "forecasts",
    "from_usd",
    "frontier",
    "fund",
    "fund_and_launch",
    "give_feedback",
    "goes_on",
    "grid_of",
    "group_runs",
    "has_search",
    "hold_for",
    "journal_markdown",
    "lab",
    "launch",
    "list_alerts",
    "list_feedback",
    "list_runs",
    "list_tokens",
    "log_tail",
    "machines",
    "make_token",
    "most_pressing",
    "next_step",
    "noise_sentence",
    "notes_of",
    "num_runs",
    "of_one_corpus",
    "offer",
    "open_lab",
    "overview",
    "parameters_of",
    "pause",
    "place",
    "place_depths",
    "place_estimates",
    "plan",
    "plan_again",
    "plan_code",
    "plan_command",
    "plan_of",
    "preview",
    "prices",
    "project_to_show",
    "projects",
    "read_note",
    "read_notes",
    "report_of_run",
    "report_of_search",
    "repriced",
    "repriced_any",
    "revisions",
    "revoke_token",
    "run_summary",
    "run_table",
    "scaling_fit",
    "search",
    "see_alerts",
    "seed_noise",
    "send_test_alert",
    "shared_view",
    "spec_differences",
    "spec_on",
    "startup_s",
    "statement",
    "stop_all",
    "sweep",
    "tag",
    "target_of",
    "threads",
    "to_usd",
    "tracked",
    "view",
    "wait",
    "waiting",
    "waiting_runs",
    "wallet",
    "wallet_dict",
    "where_next",
    "whose",
    "with_distinct_names",
    "withdraw",
    "write_note",
    "write_off",
]
