"""Run somebody else's training code, or go on with it, under the contract of a run directory.

    python -m trainer.foreign.run SPEC.json RUN_DIR [--attempt NAME] [--deadline-s S] [--burst N]

Its files are unpacked into RUN_DIR/work, where the command starts, and are there again after a kill: code that saves
and finds its own checkpoints goes on from them. What it logs to MLflow and prints becomes events. With --burst its
steps parameter is N, and result.json holds what that took. Exit codes are the trainer's: 0 done; 75 start again; 76 out
of memory; 78 bad spec, or another environment than the plan was proven in; 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from trainer.checkpoint.bucket import Bucket, leave, local_folder
from trainer.contract.events import EventWriter, free_attempt_name
from trainer.contract.exits import EXIT_DONE, EXIT_RESUME, BadSpec, EnvironmentDrift, TrainerExit, UserError
from trainer.contract.files import read_json, run_lock, write_json
from trainer.contract.foreign import SOURCES, ForeignSpec
from trainer.contract.layout import ENVIRONMENT, RESULT, SPEC
from trainer.contract.remote import Remote, RemoteError, is_url
from trainer.contract.words import printable
from trainer.foreign import surroundings, unpack
from trainer.foreign.command import Command
from trainer.frozen import load
from trainer.preemption.deadline import keep_deadline
from trainer.preemption.notices import watching_for_notices
from trainer.preemption.stop import StopRequest, StopWatch
from trainer.start import process_started_at


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    asked = parse(argv)
    stop = StopWatch(may_end_process=True)
    stop.start()
    place = asked.run_dir
    run_dir = local_folder(place) if is_url(place) else Path(place)
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(run_dir):
            if is_finished(run_dir):
                say(f"{place} holds a finished run; nothing to do (see result.json)")
                return EXIT_DONE
            bucket = Bucket(place, run_dir, asked.attempt) if is_url(place) else None
            return _run_locked(asked, run_dir, bucket, stop)
    except TrainerExit as error:  # somebody else's lock, or no bucket: there is no result.json that is ours to write
        say(str(error))
        return error.exit_code


def _run_locked(asked: argparse.Namespace, run_dir: Path, bucket: Bucket | None, stop: StopWatch) -> int:
    attempt = asked.attempt or free_attempt_name(run_dir, bucket.restored.segments if bucket else ())
    events = EventWriter(run_dir, attempt, first_seq=bucket.restored.first_seq(run_dir, attempt) if bucket else 1)
    if bucket is not None:
        bucket.start(attempt, events, say)
    result = _judged(asked, run_dir, attempt, events, stop) | {"attempt": attempt}
    if bucket is not None:
        result = bucket.flush(result)
    say(f"{result['reason']}: {result['message']}")
    write_json(run_dir / RESULT, result)
    events.emit("end", **{key: result.get(key) for key in ("exit_code", "reason", "message", "step")})
    events.close()
    if bucket is not None:
        bucket.close()
    return int(result["exit_code"])


def _judged(
    asked: argparse.Namespace, run_dir: Path, attempt: str, events: EventWriter, stop: StopWatch
) -> dict[str, Any]:
    """Run, and turn whatever happens into the contents of result.json."""
    started_at = process_started_at()
    try:
        spec = load_spec(asked.spec)
        keep_deadline(stop, spec.deadline_s, asked.run_dir, attempt, asked.deadline_s, started_at)
        _freeze(spec, run_dir)
        (run_dir / RESULT).unlink(missing_ok=True)  # an older attempt's last word is not this one's
        work = run_dir / unpack.WORK
        unpack.unpack(_sources(asked.run_dir, run_dir, spec), work, spec)
        found = surroundings.make(spec.environment, work)
        if found.said:
            events.emit("warning", code="surroundings", message=found.said)
            say(found.said)
        _check_environment(run_dir, surroundings.record(spec, found), asked.expected_environment)

        def report(request: StopRequest) -> None:
            events.emit("notice", source=request.source, ends_at=request.ends_at)
            say(f"stop asked for by {request.source}; the command is told")

        stop.report_to(report)
        command = Command(spec, run_dir, found, events, started_at=started_at, burst=asked.burst)
        with watching_for_notices(stop.notify, lambda code, text: events.emit("warning", code=code, message=text)):
            return command.run(stop)
    except TrainerExit as error:
        judged = {"exit_code": error.exit_code, "reason": error.reason, "message": str(error), **error.fields}
    except OSError as error:  # a full disk, a folder that went away
        judged = {"exit_code": UserError.exit_code, "reason": UserError.reason, "message": f"{error}"}
    return {"step": None, "wall_s": time.time() - started_at, **judged}


def load_spec(place: str | Path) -> ForeignSpec:
    """Raises BadSpec."""
    return load(place, ForeignSpec.from_json)


def is_finished(run_dir: Path) -> bool:
    """A burst does not finish a run."""
    result = read_json(run_dir / RESULT) or {}
    return (result.get("exit_code"), result.get("reason")) == (EXIT_DONE, "completed") and "burst" not in result


def say(text: str) -> None:
    print(printable(f"foreign: {text}"), flush=True)


def _freeze(spec: ForeignSpec, run_dir: Path) -> None:
    path = run_dir / SPEC
    if not path.exists():
        write_json(path, spec.to_dict())
    elif load_spec(path) != spec:
        raise BadSpec(f"{path} is another spec than the one given; a run's spec is frozen. Give another run directory")


def _sources(place: str, run_dir: Path, spec: ForeignSpec) -> bytes:
    """The archive, from the run directory. Raises BadSpec where it is not there, or not the one that was planned."""
    try:
        content = Remote(place).get(SOURCES) if is_url(place) else (run_dir / SOURCES).read_bytes()
    except RemoteError as error:
        raise UserError(f"its files cannot be fetched: {error}") from error
    except OSError as error:
        raise BadSpec(f"its files are not in the run directory: {error}. Plan it again") from error
    return unpack.checked(content, spec.sources)


def _check_environment(run_dir: Path, environment: dict[str, Any], expected: str | None) -> None:
    """Written at the first start; later, EnvironmentDrift where this is another one."""
    path = run_dir / ENVIRONMENT
    before = read_json(path)
    if before is None:
        write_json(path, environment)
    wanted = expected or (before or {}).get("hash")
    if wanted is not None and environment["hash"] != wanted:
        differing = [key for key, value in environment.items() if before and before.get(key) != value and key != "hash"]
        named = f": {', '.join(differing)}" if differing else ""
        raise EnvironmentDrift(
            f"what it runs in has hash {environment['hash']}; it was proven, or began, with {wanted}{named}. "
            "Restore that, or plan and prove it anew"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.foreign.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", metavar="SPEC.json")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--attempt", help="name of this start in events and logs")
    parser.add_argument("--deadline-s", type=float, metavar="S", help="tell it to stop, and exit 75 after S seconds")
    parser.add_argument("--burst", type=int, metavar="N", help="with N in the place of its steps parameter, measured")
    parser.add_argument("--expect-environment", dest="expected_environment", metavar="HASH", help="else exit 78")
    parser.add_argument("--expect-device", metavar="NAME", help="for the record: its own code sees what it runs on")
    return parser.parse_args(argv)


if __name__ == "__main__":
    code = main()
    leave(code)
    sys.stdout.flush()
    os._exit(code) if code == EXIT_RESUME else sys.exit(code)
