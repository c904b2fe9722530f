"""Train a run from its spec, or go on with it.

    python -m trainer.train SPEC.json RUN_DIR [--attempt NAME] [--deadline-s S] [--burst N [--rehearse]]

    python -m trainer.launch --nproc N SPEC.json RUN_DIR [...]     the same with N processes, on as many GPUs

SPEC.json and RUN_DIR are paths, or URLs: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER (see contract.remote).
Start it as often as you like: it resumes from the newest good checkpoint in RUN_DIR, and a finished run ends at once.
Exit codes: 0 done; 75 checkpointed, start again to resume; 76 out of memory; 77 diverged; 78 bad spec, too little
data, or an environment that would change results; 1 anything else. result.json in RUN_DIR holds the last word.

PATRON_CACHE        downloads, tokenizers and token shards (default ~/.cache/patron)
PATRON_SCRATCH      where runs that live in a bucket are worked on (default PATRON_CACHE/runs)
PATRON_NOTICE_FILE  a path; once it exists, the run checkpoints and stops
PATRON_METADATA_GCP, PATRON_METADATA_AWS    where to ask for a reclaim notice, if not at the cloud's own address
                    (`off`: nowhere); a notice is a request to stop, too
PATRON_STOP_WITHIN_S    seconds from a request to stop to the end of the process (default 10)
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint.bucket import Bucket, leave, local_folder
from trainer.contract.events import EventWriter, NoEvents, free_attempt_name
from trainer.contract.exits import EXIT_DONE, EXIT_ERROR, EXIT_RESUME, BadSpec, TrainerExit
from trainer.contract.files import read_json, run_lock, write_json
from trainer.contract.remote import is_url, read_anywhere
from trainer.contract.spec import SpecError, TrainSpec
from trainer.preemption.deadline import keep_deadline
from trainer.preemption.ending import Ending
from trainer.preemption.notices import watching_for_notices
from trainer.preemption.stop import StopRequest, StopWatch
from trainer.runtime import out_of_memory
from trainer.runtime.console import Console
from trainer.runtime.joining import join
from trainer.runtime.transfer import use_expandable_segments
from trainer.runtime.world import World

if TYPE_CHECKING:
    from trainer.session import Session  # torch comes with it: imported only once the spec is good


def main(argv: list[str] | None = None, *, owns_process: bool = False) -> int:
    """Returns the exit code.

    With `owns_process`, SIGTERM and SIGINT are never given back, and a process that was asked to stop and does not is
    ended by force.
    """
    stop = StopWatch(may_end_process=owns_process)
    if owns_process:
        stop.start()
        return _main(argv, stop)
    with stop.watching():
        return _main(argv, stop)


def _main(argv: list[str] | None, stop: StopWatch) -> int:
    stop.when_late(lambda _request: os._exit(EXIT_RESUME))  # until there is a last word to say
    if os.environ.get("PATRON_NOTICE_FILE"):
        stop.look_for_file(Path(os.environ["PATRON_NOTICE_FILE"]))
    args = _parse(argv)
    use_expandable_segments()
    started_at = _process_started_at()
    place: str = args.run_dir
    run_dir = local_folder(place) if is_url(place) else Path(place)
    try:
        world = join()
    except TrainerExit as error:
        return _refuse(error)
    if not world.is_first:
        return world.leave(_run_to_the_end(args, run_dir, NoEvents(), Console.silent(), started_at, stop, world))
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(run_dir):
            bucket = Bucket(place, run_dir, args.attempt) if is_url(place) else None
            exit_code = _run_locked(args, run_dir, started_at, stop, world, bucket)
    except TrainerExit as error:  # somebody else's lock, or no bucket: there is no result.json that is ours to write
        world.publish(world.explain(error))
        exit_code = _refuse(error)
    return world.leave(exit_code)


def _refuse(error: TrainerExit) -> int:
    print(f"trainer: {error}", file=sys.stderr)
    return error.exit_code


def _run_locked(
    args: argparse.Namespace, run_dir: Path, started_at: float, stop: StopWatch, world: World, bucket: Bucket | None
) -> int:
    if _is_finished(run_dir) and not _differing_keys_or_none(args.spec, run_dir):
        print(f"trainer: {args.run_dir} holds a finished run; nothing to do (see result.json)", file=sys.stderr)
        return EXIT_DONE if bucket is None or bucket.bring_up_the_rest() else EXIT_RESUME
    attempt: str = args.attempt or free_attempt_name(run_dir, bucket.restored.segments if bucket else ())
    events = EventWriter(run_dir, attempt, first_seq=bucket.restored.first_seq(run_dir, attempt) if bucket else 1)
    console = Console(run_dir / "logs" / f"{attempt}.log")
    if bucket is not None:
        bucket.start(attempt, events, console.say)
    return _run_to_the_end(args, run_dir, events, console, started_at, stop, world, bucket)


def _run_to_the_end(
    args: argparse.Namespace,
    run_dir: Path,
    events: EventWriter,
    console: Console,
    started_at: float,
    stop: StopWatch,
    world: World,
    bucket: Bucket | None = None,
) -> int:
    """Run, and say how it ended: once, here or in the watching thread."""

    def report(request: StopRequest) -> None:
        world.tell_stop(request.source)
        events.emit("notice", source=request.source, ends_at=request.ends_at)
        console.say(f"stop asked for by {request.source}; ending at the next micro-batch")

    def write_last_word(result: dict[str, Any]) -> None:
        if not world.is_first:
            return
        console.say(f"{result['reason']}: {result['message']}")
        if not _is_finished(run_dir):  # a refused start must not hide a finished run
            write_json(run_dir / "result.json", result | {"attempt": events.attempt})
        events.emit("end", **{key: result[key] for key in ("exit_code", "reason", "message", "step")})

    ending = Ending(run_dir, write_last_word, events, console, bucket, started_at)
    stop.hear(world.heard_stop)
    stop.report_to(report)
    stop.when_late(ending.end_process)
    result = ending.say(_run_and_judge(args, run_dir, events, console, started_at, stop, ending, world))
    stop.disarm()
    return int(result["exit_code"])


def _run_and_judge(
    args: argparse.Namespace,
    run_dir: Path,
    events: EventWriter,
    console: Console,
    started_at: float,
    stop: StopWatch,
    ending: Ending,
    world: World,
) -> dict[str, Any]:
    """Run, and turn whatever happens into the contents of result.json."""
    session: Session | None = None
    result: dict[str, Any] = {"exit_code": EXIT_DONE, "reason": "completed", "message": ""}
    try:
        spec = _load_spec(args.spec)
        keep_deadline(stop, spec.deadline_s, args.run_dir, args.attempt, args.deadline_s, started_at)
        if world.is_first:
            _freeze_spec(spec, run_dir)
            if not _is_finished(run_dir):
                (run_dir / "result.json").unlink(missing_ok=True)  # an older attempt's last word is not this one's
            world.announce("begin")
        else:
            world.wait_for("begin")

        from trainer.session import Options, Session

        def publish_burst() -> None:
            assert session is not None
            done = {"exit_code": EXIT_DONE, "reason": "completed", "message": "burst done, rehearsing a kill"}
            write_json(run_dir / "result.json", done | session.figures() | {"attempt": events.attempt})

        session = Session(
            spec=spec,
            run_dir=run_dir,
            options=Options(
                burst_steps=args.burst, rehearse=args.rehearse, expected_environment=args.expect_environment
            ),
            on_burst=publish_burst,
            events=events,
            console=console,
            stop=stop,
            started_at=started_at,
            world=world,
        )
        ending.session = session
        with watching_for_notices(stop.notify, session.warn):
            session.run()
        result["message"] = f"burst of {args.burst} steps" if args.burst else "the run is complete"
    except TrainerExit as error:
        result = world.explain(error) | error.fields
    except KeyboardInterrupt:
        result = {"exit_code": EXIT_ERROR, "reason": "user_error", "message": "interrupted twice; not checkpointed"}
    except Exception as error:  # the process ends here: the traceback goes where it will be looked for
        result = _judge_unexpected(error, session)
    world.publish(result)
    return result | ending.figures()


def _judge_unexpected(error: Exception, session: Session | None) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    kind = out_of_memory.kind_of(error)
    if kind is not None:
        return out_of_memory.judge(error, kind, session.micro if session else None) | {"traceback": trace}
    print(trace, file=sys.stderr)
    message = f"{type(error).__name__}: {error}"
    return {"exit_code": EXIT_ERROR, "reason": "user_error", "message": message, "traceback": trace}


def _load_spec(place: str | Path) -> TrainSpec:
    try:
        return TrainSpec.from_json(read_anywhere(place).decode())
    except SpecError as error:
        raise BadSpec(f"{place}: " + "; ".join(error.problems)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"cannot read the spec: {error}") from error


def _freeze_spec(spec: TrainSpec, run_dir: Path) -> None:
    """The first start writes spec.json; a run never changes its spec."""
    path = run_dir / "spec.json"
    if not path.exists():
        write_json(path, spec.to_dict())
        return
    differing = _differing_keys(spec, _load_spec(path))
    if differing:
        raise BadSpec(
            f"{path} differs from the given spec in {'; '.join(differing)}. Give the run's own spec to resume, or "
            "another run directory to start a new run"
        )


def _differing_keys(given: TrainSpec, frozen: TrainSpec) -> list[str]:
    ours, theirs = given.to_dict(), frozen.to_dict()
    return [f"{key} ({theirs[key]!r} in the run, {ours[key]!r} given)" for key in ours if ours[key] != theirs[key]]


def _differing_keys_or_none(spec_path: str, run_dir: Path) -> bool:
    """Whether the given spec is unreadable or not the finished run's own."""
    try:
        return bool(_differing_keys(_load_spec(spec_path), _load_spec(run_dir / "spec.json")))
    except BadSpec:
        return True


def _is_finished(run_dir: Path) -> bool:
    """A completed result, and the checkpoint it speaks of. A burst does not finish a run."""
    result = read_json(run_dir / "result.json") or {}
    if result.get("exit_code") != EXIT_DONE or result.get("reason") != "completed" or "burst" in result:
        return False
    return (run_dir / "checkpoints" / f"step-{result.get('step') or 0:06d}" / "manifest.json").exists()


def _process_started_at() -> float:
    """When this process began, imports included; now, where that cannot be known."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii")
        ticks_after_boot = int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5)
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - max(0.0, uptime_s - ticks_after_boot / os.sysconf("SC_CLK_TCK"))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", metavar="SPEC.json")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--attempt", type=_attempt_name, help="name of this start in events and logs")
    parser.add_argument("--deadline-s", type=float, metavar="S", help="checkpoint and exit 75 after S seconds")
    parser.add_argument("--burst", type=int, metavar="N", help="N steps from where the run stands, measured")
    parser.add_argument("--rehearse", action="store_true", help="after the burst go on stepping, to be killed (dryrun)")
    parser.add_argument("--expect-environment", metavar="HASH", help="exit 78 unless the environment has this hash")
    args = parser.parse_args(argv)
    if args.burst is not None and args.burst < 1:
        parser.error(f"--burst {args.burst} must be at least 1")
    if args.deadline_s is not None and args.deadline_s <= 0:
        parser.error(f"--deadline-s {args.deadline_s} must be above 0")
    return args


def _attempt_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, dots, dashes and underscores, at most 100")
    return text


if __name__ == "__main__":
    code = main(owns_process=True)
    leave(code)
    sys.exit(code)
