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
