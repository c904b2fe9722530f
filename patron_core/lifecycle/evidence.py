"""An attempt's evidence in words: why it is believed to have ended as it did. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

_GIB = 2**30


def words(evidence: Mapping[str, Any], exit_code: int | None = None) -> str:
    """Clauses in the order in which they convince; empty where nothing is known."""
    said = [*_end(evidence, exit_code), *_told(evidence), *_machine(evidence), *_memory(evidence)]
    return "; ".join(said)


def _end(evidence: Mapping[str, Any], exit_code: int | None) -> list[str]:
    starts = evidence.get("starts") or []
    last = starts[-1] if starts else {}
    said = []
    if exit_code is not None:
        said.append(f"exit code {exit_code}")
    elif last.get("signal"):
        said.append(f"killed by {_signal_name(last['signal'])}")
    elif evidence.get("instance_gone"):
        said.append("no last word from its machine")
    if evidence.get("stopped_before_start") or evidence.get("never_started"):
        said.append("the workload never started")
    if evidence.get("error"):
        said.append(str(evidence["error"]))
    return said


def _signal_name(signum: Any) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def _told(evidence: Mapping[str, Any]) -> list[str]:
    names = {
        "reclaim_notice": "its machine was told to go",
        "deadline_hit": "its deadline was over",
        "cancelled": "Patron had asked it to stop",
        "killed": "it did not stop within its grace and was killed",
        "runner_killed": "the process that watched over it was killed",
        "runner_deaf": "the process that watched over it did not answer",
        "rebooted": "its machine restarted",
    }
    return [words for name, words in names.items() if evidence.get(name)]


def _machine(evidence: Mapping[str, Any]) -> list[str]:
    said = []
    if evidence.get("sky_status"):
        said.append(f"SkyPilot says {evidence['sky_status']}")
    if evidence.get("failure_reason"):
        said.append(str(evidence["failure_reason"]).split(". To see")[0].rstrip("."))
    if damaged := evidence.get("damaged_records"):
        said.append(f"{damaged} of its machines' records cannot be read, and their time is not counted")
    if evidence.get("recoveries"):
        said.append(f"it was brought back {_times(evidence['recoveries'])}")
    where = [str(evidence[name]) for name in ("cloud", "region", "zone") if evidence.get(name)]
    if where:
        said.append("in " + "/".join(where))
    return said


def _memory(evidence: Mapping[str, Any]) -> list[str]:
    said = []
    kills = evidence.get("oom_kills")
    if kills:
        said.append(f"the kernel killed {kills} process{'es' if kills > 1 else ''} for memory")
    memory = evidence.get("memory") or {}
    if memory.get("rss_bytes") and memory.get("available_bytes") is not None:
        said.append(
            f"last seen with {memory['rss_bytes'] / _GIB:.1f} GiB of memory, "
            f"{memory['available_bytes'] / _GIB:.1f} GiB were left"
        )
    return said


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


NOTICES_S = {"GCP": 30.0, "AWS": 120.0}  # from a cloud's word to the end of its machine


def of_notice(rehearsal: Mapping[str, Any], checkpoint_every_s: float | None) -> str:
    """What a reclaim takes, from a dryrun that was told to go as a cloud tells it; empty where it was not."""
    took_s = rehearsal.get("notice_s")
    if not isinstance(took_s, int | float):
        return ""
    at_worst = f"up to {checkpoint_every_s:.0f} s of work" if checkpoint_every_s else "all work since a checkpoint"
    if not rehearsal.get("notice_durable"):
        saved = "saved a checkpoint that did not come up" if rehearsal.get("notice_saved") else "saved no checkpoint"
        return f"Told to go it {saved} in {took_s:.1f} s: a reclaim takes back {at_worst}."
    late = [f"{cloud} gives {notice_s:.0f} s" for cloud, notice_s in NOTICES_S.items() if took_s > notice_s]
    if late:
        return f"Told to go it took {took_s:.1f} s, and {' and '.join(late)}: a reclaim there takes back {at_worst}."
    return f"Told to go it saved and was gone within {took_s:.1f} s, in time for every cloud's notice."
