"""Prove a plan on the machine that will train: a measured burst, a kill and a resume, and a cloud's notice.

    python -m trainer.dryrun SPEC.json RUN_DIR [--attempt NAME] [--deadline-s S] [--burst N]
    PET_NPROC_PER_NODE=8 python -m trainer.dryrun ...               with torchrun, which reads PET_NNODES, ... too

One process does N steps, an evaluation and a checkpoint, and steps on; it is killed with SIGKILL once step N + 1 is
on record. A second process has to resume at step N and find the same loss in step N + 1; it is told to go with SIGTERM,
as by a cloud that takes its machine, and what it saves and brings up is timed. result.json then holds `burst` and
`rehearsal`. Exit codes are the trainer's; 1 when the resume did not hold. Needs a run directory of its own.
Over several machines the first one rehearses, and the others' ranks take part: they are lost with the kill, start again
and are told to go.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.checkpoint.bucket import local_folder
from trainer.contract.code import python_module
from trainer.contract.events import attempt_lines, free_attempt_name, seq_of
from trainer.contract.exits import EXIT_DONE, EXIT_ERROR, EXIT_RESUME
from trainer.contract.files import read_json, write_json
from trainer.contract.layout import EVENTS, RESULT
from trainer.contract.ranks import LastWord, node_rank, torchrun, world_size
from trainer.contract.remote import Remote, is_url
from trainer.contract.words import printable

DEFAULT_BURST_STEPS = 8
POLL_S = 0.1
SAME_LOSS_TOLERANCE = 5e-3  # relative; kernels of a GPU may add in another order, a CPU gives the very same


class Rehearsal:
    def __init__(self, args: argparse.Namespace):
        self._spec, self._place, self._steps = args.spec, args.run_dir, args.burst
        self._run_dir = local_folder(args.run_dir) if is_url(args.run_dir) else Path(args.run_dir)
        self._expected = ("--expect-device", args.expect_device) if args.expect_device else ()
        self._attempt: str = args.attempt or free_attempt_name(self._run_dir)
        self._deadline_at = time.monotonic() + args.deadline_s if args.deadline_s is not None else None
        self._world = world_size()
        self._child: subprocess.Popen[bytes] | None = None
        self._last_word = LastWord(self._attempt, None)
        self._stopped = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        if node_rank():
            return self._take_part()
        killed_at = self._burst_and_kill()
        first = self._result()
        if killed_at is None:  # refused, failed or stopped: its own result stands
            assert self._child is not None
            return self._exit_code(self._child)
        if self._stopped:
            return EXIT_RESUME
        told, exit_code = self._resume_and_tell_to_go(_burst_end(first) + 2, killed_at)
        if exit_code != EXIT_DONE:
            return exit_code
        rehearsal = self._compare(_burst_end(first), killed_at) | told
        ok = bool(rehearsal["ok"])
        message = "the plan is proven: burst, kill and resume" if ok else f"the resume did not hold: {rehearsal}"
        verdict = {"exit_code": EXIT_DONE if ok else EXIT_ERROR, "reason": "completed" if ok else "user_error"}
        up_there = {key: value for key, value in self._result().items() if key == "durable_step"}
        burst = first["burst"] | {"upload_bytes_per_s": self._upload_bytes_per_s()}
        result = first | verdict | up_there | {"message": message, "burst": burst, "rehearsal": rehearsal}
        write_json(self._run_dir / RESULT, result)
        if is_url(self._place):
            Remote(self._place).put(RESULT, self._run_dir / RESULT)
        print(printable(f"dryrun: {message}"), file=sys.stderr)
        return EXIT_DONE if ok else EXIT_ERROR

    def _take_part(self) -> int:
        """On the machines beside the first: the burst until that is killed, then until it is told to go."""
        self._start("--burst", str(self._steps), "--rehearse").wait()
        if not self._stopped:
            self._start("--burst", "1", "--rehearse").wait()
        return EXIT_RESUME if self._stopped else EXIT_DONE  # what came of it, the first machine says

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        options += self._expected
        self._last_word = LastWord(self._attempt, self._result())
        command = [*python_module("trainer.train"), self._spec, self._place]
        command += ["--attempt", self._attempt, *options]
        if self._deadline_at is not None:
            command += ["--deadline-s", f"{max(1.0, self._deadline_at - time.monotonic()):.1f}"]
        self._child = subprocess.Popen(torchrun(command) if self._world.ranks > 1 else command)
        return self._child

    def _exit_code(self, child: subprocess.Popen[bytes]) -> int:
        """Waits for its end. torchrun's own says only that it was a bad one."""
        code = child.wait()
        return self._last_word.exit_code(code, self._result()) if self._world.ranks > 1 else code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _burst_and_kill(self) -> float | None:
        """When the child was killed; None when it ended without a burst that can be compared."""
        child = self._start("--burst", str(self._steps), "--rehearse")
        while child.poll() is None:
            time.sleep(POLL_S)
            result = self._result()
            if "burst" in result and self._losses(_burst_end(result) + 1):
                child.kill()
        child.wait()
        return time.time() if child.returncode in (EXIT_DONE, -signal.SIGKILL) and "burst" in self._result() else None

    def _resume_and_tell_to_go(self, step: int, killed_at: float) -> tuple[dict[str, Any], int]:
        """What became of a notice after `step`, and an exit code: EXIT_DONE where the process ended as it should.

        A run that has no such step ends by itself, and nothing is known of a notice.
        """
        child = self._start("--burst", "1", "--rehearse")
        while child.poll() is None and not any(at > killed_at for at, _ in self._losses(step)):
            time.sleep(POLL_S)
        if child.poll() is not None or self._stopped:
            return {}, self._exit_code(child)
        asked_at = time.monotonic()
        child.send_signal(signal.SIGTERM)
        exit_code = self._exit_code(child)
        gone_s = time.monotonic() - asked_at
        if self._stopped or exit_code != EXIT_RESUME:  # it came to its last step meanwhile
            return {}, exit_code
        result = self._result()
        saved = [event for event in self._events() if event["kind"] == "checkpoint" and event["step"] == result["step"]]
        is_durable = result.get("durable_step") == result["step"] if is_url(self._place) else bool(saved)
        return {"notice_s": gone_s, "notice_saved": bool(saved), "notice_durable": is_durable}, EXIT_DONE

    def _upload_bytes_per_s(self) -> float | None:
        """The slowest that a checkpoint went up; None where nothing does."""
        speeds = [e["bytes"] / e["seconds"] for e in self._events() if e["kind"] == "uploaded" and e["seconds"] > 0]
        return min(speeds, default=None)

    def _compare(self, burst_end: int, killed_at: float) -> dict[str, Any]:
        """Whether the second process resumed at the burst's end and found the same loss in the step after it."""
        starts = [event for event in self._events() if event["kind"] == "start" and event["time"] > killed_at]
        resumed_step = starts[-1]["resumed_step"] if starts else None
        values = self._losses(burst_end + 1)
        difference = None
        if len(values) > 1:
            (_, before), (at, after) = values[0], values[-1]
            difference = abs(after - before) / abs(before)
        return {
            "ok": resumed_step == burst_end and difference is not None and difference <= SAME_LOSS_TOLERANCE,
            "killed_after_step": burst_end + 1,
            "resumed_step": resumed_step,
            "loss_difference": difference,  # relative
            "recovery_s": at - killed_at if difference is not None else None,  # kill to the step done again
        }

    def _result(self) -> dict[str, Any]:
        return read_json(self._run_dir / RESULT) or {}

    def _losses(self, step: int) -> list[tuple[float, float]]:
        """(time, loss) each time that the step was done."""
        metrics = (event for event in self._events() if event["kind"] == "metrics" and event["step"] == step)
        return [(event["time"], event["metrics"]["train/loss"]) for event in metrics]

    def _events(self) -> Iterator[dict[str, Any]]:
        lines = attempt_lines(self._run_dir / EVENTS, self._attempt)
        return (json.loads(line) for line in lines if seq_of(line) is not None)


def _burst_end(result: dict[str, Any]) -> int:
    return int(result["burst"]["from_step"]) + int(result["burst"]["steps"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.dryrun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", metavar="SPEC.json")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--attempt", help="name of this dryrun in events and logs")
    parser.add_argument("--deadline-s", type=float, metavar="S", help="checkpoint and exit 75 after S seconds")
    parser.add_argument(
        "--burst", type=int, default=DEFAULT_BURST_STEPS, metavar="N", help="steps (default %(default)s)"
    )
    parser.add_argument("--expect-device", metavar="NAME", help="exit 78 unless CUDA works here, on this GPU")
    args = parser.parse_args(argv)
    return Rehearsal(args).run()


if __name__ == "__main__":
    sys.exit(main())
