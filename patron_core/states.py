"""What a run can be, how it may change, and why an attempt ended. Pure; every table is total, every member tested.

draft -> dryrun -> awaiting_funding -> funded -> launching -> running -> succeeded
             \\-> failed          (launching <-> funded: no capacity)    |  ^
                                                running -> recovering -+--/
                                 running -> paused (out of funds, or asked to) -> funded
any live state -> failed | cancelled
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class RunState(StrEnum):
    DRAFT = "draft"
    DRYRUN = "dryrun"
    AWAITING_FUNDING = "awaiting_funding"
    FUNDED = "funded"
    LAUNCHING = "launching"
    RUNNING = "running"
    RECOVERING = "recovering"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
# a machine may be burning money, so a supervisor must look
ACTIVE = frozenset({RunState.DRYRUN, RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})

_FORWARD: dict[RunState, frozenset[RunState]] = {
    RunState.DRAFT: frozenset({RunState.DRYRUN, RunState.AWAITING_FUNDING}),  # the latter by a proof that it shares
    RunState.DRYRUN: frozenset({RunState.AWAITING_FUNDING, RunState.DRAFT}),  # back, where it could not be made
    RunState.AWAITING_FUNDING: frozenset({RunState.FUNDED, RunState.DRYRUN}),
    RunState.FUNDED: frozenset({RunState.LAUNCHING, RunState.AWAITING_FUNDING}),
    RunState.LAUNCHING: frozenset({RunState.RUNNING, RunState.FUNDED, RunState.RECOVERING, RunState.PAUSED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.RECOVERING, RunState.PAUSED}),
    RunState.RECOVERING: frozenset(
        {RunState.RUNNING, RunState.LAUNCHING, RunState.FUNDED, RunState.SUCCEEDED, RunState.PAUSED}
    ),
    RunState.PAUSED: frozenset({RunState.FUNDED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
LEGAL: dict[RunState, frozenset[RunState]] = {
    state: targets if state in TERMINAL else targets | {RunState.FAILED, RunState.CANCELLED}
    for state, targets in _FORWARD.items()
}


class EndReason(StrEnum):
    COMPLETED = "completed"
    PREEMPTED = "preempted"
    NOTICE = "notice"
    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    DIVERGED = "diverged"
    BAD_SPEC = "bad_spec"
    ENVIRONMENT_DRIFT = "environment_drift"
    USER_ERROR = "user_error"
    NO_CAPACITY = "no_capacity"
    LOST = "lost"
    HUNG = "hung"
    NOT_STARTED = "not_started"
    SOURCE_UNREACHABLE = "source_unreachable"
    OUT_OF_FUNDS = "out_of_funds"
    OVER_BUDGET = "over_budget"
    DEADLINE = "deadline"
    SWITCHED = "switched"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    WRITTEN_OFF = "written_off"


NEXT_STATE: dict[EndReason, RunState] = {
    EndReason.COMPLETED: RunState.SUCCEEDED,
    EndReason.PREEMPTED: RunState.RECOVERING,
    EndReason.NOTICE: RunState.RECOVERING,
    EndReason.CUDA_OOM: RunState.FAILED,
    EndReason.HOST_OOM: RunState.FAILED,
    EndReason.DIVERGED: RunState.FAILED,
    EndReason.BAD_SPEC: RunState.FAILED,
    EndReason.ENVIRONMENT_DRIFT: RunState.FAILED,
    EndReason.USER_ERROR: RunState.FAILED,
    EndReason.NO_CAPACITY: RunState.FUNDED,
    EndReason.LOST: RunState.RECOVERING,
    EndReason.HUNG: RunState.RECOVERING,
    EndReason.NOT_STARTED: RunState.PAUSED,
    EndReason.SOURCE_UNREACHABLE: RunState.RECOVERING,
    EndReason.OUT_OF_FUNDS: RunState.PAUSED,
    EndReason.OVER_BUDGET: RunState.FAILED,
    EndReason.DEADLINE: RunState.PAUSED,
    EndReason.SWITCHED: RunState.RECOVERING,
    EndReason.PAUSED: RunState.PAUSED,
    EndReason.CANCELLED: RunState.CANCELLED,
    EndReason.WRITTEN_OFF: RunState.FAILED,
}
# Retried without counting: the machine went away, the run did nothing wrong.
FREE_RETRY = frozenset({EndReason.PREEMPTED, EndReason.NOTICE, EndReason.SWITCHED})
# Retried, but it counts against the failure budget: nobody knows why it died, or did nothing, or when the source of its
# data will answer.
COUNTED_RETRY = frozenset({EndReason.LOST, EndReason.HUNG, EndReason.SOURCE_UNREACHABLE})

SENTENCE: dict[EndReason, str] = {
    EndReason.COMPLETED: "Finished its last step.",
    EndReason.PREEMPTED: "The machine was taken away; the run resumes from its newest checkpoint.",
    EndReason.NOTICE: "It was told to stop, and resumes from its newest checkpoint.",
    EndReason.CUDA_OOM: "The GPU ran out of memory; the same configuration is not tried again.",
    EndReason.HOST_OOM: "The machine ran out of main memory; the same configuration is not tried again.",
    EndReason.DIVERGED: "The loss, a gradient or a weight stopped being a number; it was not saved.",
    EndReason.BAD_SPEC: "The spec or its data cannot make this run.",
    EndReason.ENVIRONMENT_DRIFT: "The machine or its environment is not the one that was planned and proven.",
    EndReason.USER_ERROR: "The workload failed with an error of its own; its log and result.json have the traceback.",
    EndReason.NO_CAPACITY: "No machine could be had; the money stays held and the run can be launched again.",
    EndReason.LOST: "The process vanished without a word and without a notice.",
    EndReason.HUNG: "It recorded and printed nothing for too long, and was stopped.",
    EndReason.NOT_STARTED: "It could not be started; its money is free again.",
    EndReason.SOURCE_UNREACHABLE: "The source of its data did not answer; that is tried again, after a while.",
    EndReason.OUT_OF_FUNDS: "The money held for it is used up.",
    EndReason.OVER_BUDGET: "The plan costs more than the budget allows.",
    EndReason.DEADLINE: "Its deadline passed.",
    EndReason.SWITCHED: "Stopped, to go on with another kind of machine, so that it is done in time.",
    EndReason.PAUSED: "Paused on request.",
    EndReason.CANCELLED: "Cancelled on request.",
    EndReason.WRITTEN_OFF: "Its machine was not heard of any more, and it was given up; its money is free again.",
}


class AlertKind(StrEnum):
    """What people are told of without having asked."""

    RECLAIMED = "reclaimed"
    PAUSED = "paused"  # not because somebody asked for it
    DIVERGED = "diverged"
    FAILED = "failed"
    OFF_FORECAST = "off_forecast"
    STUCK = "stuck"
    FINISHED = "finished"
    APPROVAL_WANTED = "approval_wanted"
    TEST = "test"


# None: somebody asked for it, or it is as it should be
ALERT: dict[EndReason, AlertKind | None] = {
    EndReason.COMPLETED: AlertKind.FINISHED,
    EndReason.PREEMPTED: AlertKind.RECLAIMED,
    EndReason.NOTICE: AlertKind.RECLAIMED,
    EndReason.CUDA_OOM: AlertKind.FAILED,
    EndReason.HOST_OOM: AlertKind.FAILED,
    EndReason.DIVERGED: AlertKind.DIVERGED,
    EndReason.BAD_SPEC: AlertKind.FAILED,
    EndReason.ENVIRONMENT_DRIFT: AlertKind.FAILED,
    EndReason.USER_ERROR: AlertKind.FAILED,
    EndReason.NO_CAPACITY: AlertKind.STUCK,
    EndReason.LOST: AlertKind.STUCK,
    EndReason.HUNG: AlertKind.STUCK,
    EndReason.NOT_STARTED: AlertKind.PAUSED,
    EndReason.SOURCE_UNREACHABLE: AlertKind.STUCK,
    EndReason.OUT_OF_FUNDS: AlertKind.PAUSED,
    EndReason.OVER_BUDGET: AlertKind.FAILED,
    EndReason.DEADLINE: AlertKind.PAUSED,
    EndReason.SWITCHED: None,
    EndReason.PAUSED: None,
    EndReason.CANCELLED: None,
    EndReason.WRITTEN_OFF: AlertKind.FAILED,
}


def alert_of(reason: EndReason | None, new: RunState) -> AlertKind | None:
    """What arriving there for that reason is told as. A dryrun that is done is as it should be."""
    kind = None if reason is None else ALERT[reason]
    if kind is AlertKind.FINISHED and new is not RunState.SUCCEEDED:
        return None
    if new is RunState.FAILED and kind is not AlertKind.DIVERGED:
        return AlertKind.FAILED
    if new is RunState.PAUSED and kind is not None:
        return AlertKind.PAUSED
    return kind


# the workload's own message says what to do about it
_SAYS_WHY = frozenset(
    {EndReason.BAD_SPEC, EndReason.ENVIRONMENT_DRIFT, EndReason.USER_ERROR, EndReason.SOURCE_UNREACHABLE}
)
MESSAGE_CHARS = 1000


# ended by somebody who gave it time to save: people want to know what is left
_ASKED_TO_SAVE = frozenset(
    {
        EndReason.NOTICE,
        EndReason.OUT_OF_FUNDS,
        EndReason.DEADLINE,
        EndReason.SWITCHED,
        EndReason.PAUSED,
        EndReason.HUNG,
    }
)


def why(reason: EndReason, evidence: Mapping[str, Any] | None = None) -> str:
    """The reason's sentence, and what is known beside it: the attempt's own last word, and the checkpoint that a resume
    would find (`checkpoint_step`, in a bucket the durable one)."""
    evidence = evidence or {}
    last_word = evidence.get("last_word") or {}
    memory, divergence = last_word.get("memory"), last_word.get("divergence")
    if reason in (EndReason.CUDA_OOM, EndReason.HOST_OOM) and isinstance(memory, Mapping):
        return f"{SENTENCE[reason]} {_what_fits(memory)}".rstrip()
    if reason is EndReason.DIVERGED and isinstance(divergence, Mapping):
        return f"{SENTENCE[reason]} {_what_diverged(divergence, last_word.get('last_checkpoint_step'))}"
    if reason is EndReason.NOT_STARTED and evidence.get("error"):
        return f"{SENTENCE[reason]} {evidence['error']}"
    if reason in _ASKED_TO_SAVE and "checkpoint_step" in evidence:
        return f"{SENTENCE[reason]} {_what_is_saved(evidence['checkpoint_step'], last_word.get('step'))}"
    if reason in _SAYS_WHY and isinstance(message := last_word.get("message"), str) and message:
        return f"{SENTENCE[reason]} {message[:MESSAGE_CHARS]}"
    return SENTENCE[reason]


def _what_is_saved(checkpoint_step: int | None, last_step: Any) -> str:
    if checkpoint_step is None:
        return "There is no checkpoint of it."
    if checkpoint_step == last_step:
        return f"It saved a checkpoint of step {checkpoint_step}."
    ended = f"; it had come to step {last_step}" if isinstance(last_step, int) else ""
    return f"Its newest checkpoint is of step {checkpoint_step}{ended}."


def _what_fits(memory: Mapping[str, Any]) -> str:
    tried, fitting = memory.get("device_batch_size"), memory.get("fitting_device_batch_size")
    if tried is None:
        return ""
    if fitting is None:
        return "Not even one sequence at a time would fit: take a smaller depth or sequence_len."
    return f"It would fit with device_batch_size {fitting} instead of {tried}."


def _what_diverged(divergence: Mapping[str, Any], checkpoint_step: int | None) -> str:
    quantity, value, name = (divergence.get(key) for key in ("quantity", "value", "name"))
    what = f"the {quantity} was {value}"
    if name:
        bad, total = divergence.get("num_bad", 0), divergence.get("num_values", 0)
        what = f"the {quantity} of {name} had {value} in {bad:,} of {total:,} values"
    is_saved = checkpoint_step is not None
    saved = f"the last good checkpoint is of step {checkpoint_step}" if is_saved else "there is no good checkpoint"
    return f"In step {divergence.get('step')} {what}; {saved}."
