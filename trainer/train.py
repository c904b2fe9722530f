"""Train a run from its spec, or go on with it.

    python -m trainer.train SPEC.json RUN_DIR [--attempt NAME] [--deadline-s S] [--burst N [--rehearse]]

    torchrun --nproc-per-node N -m trainer.train SPEC.json RUN_DIR [...]    the same with N processes, on as many GPUs

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
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint.bucket import Bucket, leave, local_folder
from trainer.contract.devices import KNOWN_GPUS
from trainer.contract.events import EventWriter, NoEvents, free_attempt_name
from trainer.contract.exits import EXIT_DONE, EXIT_ERROR, EXIT_RESUME, TrainerExit
from trainer.contract.files import run_lock, write_json
from trainer.contract.keys import KEY_WORDS, is_key
from trainer.contract.layout import RESULT, log_name
from trainer.contract.remote import is_url
from trainer.contract.words import printable
from trainer.frozen import freeze_spec, is_finished, is_spec_of_another_run, load_spec
from trainer.preemption.deadline import keep_deadline
from trainer.preemption.ending import Ending
from trainer.preemption.notices import watching_for_notices
from trainer.preemption.stop import StopRequest, StopWatch
from trainer.runtime import out_of_memory
from trainer.runtime.console import Console
from trainer.runtime.joining import join
from trainer.runtime.transfer import use_expandable_segments
from trainer.start import Asked, Start, process_started_at

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
    asked = _parse(argv)
    use_expandable_segments()
    started_at = process_started_at()
    place = asked.run_dir
    run_dir = local_folder(place) if is_url(place) else Path(place)
    try:
        world = join()
    except TrainerExit as error:
        return _refuse(error)
    begin = partial(Start, asked=asked, run_dir=run_dir, stop=stop, world=world, started_at=started_at)
    if not world.is_first:
        return world.leave(_run_to_the_end(begin(events=NoEvents(), console=Console.silent(), bucket=None)))
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(run_dir):
            bucket = Bucket(place, run_dir, asked.attempt) if is_url(place) else None
            exit_code = _run_locked(asked, run_dir, bucket, begin)
    except TrainerExit as error:  # somebody else's lock, or no bucket: there is no result.json that is ours to write
        world.publish(world.explain(error))
        exit_code = _refuse(error)
    return world.leave(exit_code)


def _refuse(error: TrainerExit) -> int:
    print(printable(f"trainer: {error}"), file=sys.stderr)
    return error.exit_code


def _run_locked(asked: Asked, run_dir: Path, bucket: Bucket | None, begin: Callable[..., Start]) -> int:
    if is_finished(run_dir) and not is_spec_of_another_run(asked.spec, run_dir):
        done = f"trainer: {asked.run_dir} holds a finished run; nothing to do (see result.json)"
        print(printable(done), file=sys.stderr)
        return EXIT_DONE if bucket is None or bucket.bring_up_the_rest() else EXIT_RESUME
    attempt = asked.attempt or free_attempt_name(run_dir, bucket.restored.segments if bucket else ())
    events = EventWriter(run_dir, attempt, first_seq=bucket.restored.first_seq(run_dir, attempt) if bucket else 1)
    console = Console(run_dir / log_name(attempt))
    if bucket is not None:
        bucket.start(attempt, events, console.say)
    return _run_to_the_end(begin(events=events, console=console, bucket=bucket))


def _run_to_the_end(start: Start) -> int:
    """Run, and say how it ended: once, here or in the watching thread."""
    events, console, stop, world = start.events, start.console, start.stop, start.world

    def report(request: StopRequest) -> None:
        world.tell_stop(request.source)
        events.emit("notice", source=request.source, ends_at=request.ends_at)
        console.say(f"stop asked for by {request.source}; ending at the next micro-batch")

    def write_last_word(result: dict[str, Any]) -> None:
        if not world.is_first:
            return
        console.say(f"{result['reason']}: {result['message']}")
        if not is_finished(start.run_dir):  # a refused start must not hide a finished run
            write_json(start.run_dir / RESULT, result | {"attempt": events.attempt})
        events.emit("end", **{key: result[key] for key in ("exit_code", "reason", "message", "step")})

    ending = Ending(start, write_last_word)
    stop.hear(world.heard_stop)
    stop.report_to(report)
    stop.when_late(ending.end_process)
    result = ending.say(_run_and_judge(start, ending))
    stop.disarm()
    return int(result["exit_code"])


def _run_and_judge(start: Start, ending: Ending) -> dict[str, Any]:
    """Run, and turn whatever happens into the contents of result.json."""
    asked, world = start.asked, start.world
    session: Session | None = None
    result: dict[str, Any] = {"exit_code": EXIT_DONE, "reason": "completed", "message": ""}
    try:
        spec = load_spec(asked.spec)
        keep_deadline(
            start.stop, spec.deadline_s, asked.run_dir, asked.attempt, asked.deadline_s, started_at=start.started_at
        )
        if world.is_first:
            freeze_spec(spec, start.run_dir)
            if not is_finished(start.run_dir):  # an older attempt's last word is not this one's
                (start.run_dir / RESULT).unlink(missing_ok=True)
            world.announce("begin")
        else:
            world.wait_for("begin")

        from trainer.session import Session

        session = ending.session = Session(spec, start)
        with watching_for_notices(start.stop.notify, session.warn):
            session.run()
        result["message"] = f"burst of {asked.burst_steps} steps" if asked.burst_steps else "the run is complete"
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
    print(printable(trace), file=sys.stderr)
    message = f"{type(error).__name__}: {error}"
    return {"exit_code": EXIT_ERROR, "reason": "user_error", "message": message, "traceback": trace}


def _parse(argv: list[str] | None) -> Asked:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", metavar="SPEC.json")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--attempt", type=_attempt_name, help="name of this start in events and logs")
    parser.add_argument("--deadline-s", type=float, metavar="S", help="checkpoint and exit 75 after S seconds")
    parser.add_argument(
        "--burst", dest="burst_steps", type=int, metavar="N", help="N steps from where the run stands, measured"
    )
    parser.add_argument("--rehearse", action="store_true", help="after the burst go on stepping, to be killed (dryrun)")
    parser.add_argument(
        "--expect-environment",
        dest="expected_environment",
        metavar="HASH",
        help="exit 78 unless the environment has this hash",
    )
    parser.add_argument(
        "--expect-device",
        dest="expected_device",
        choices=KNOWN_GPUS,
        metavar="NAME",
        help="exit 78 unless CUDA works here, on this GPU",
    )
    asked = Asked(**vars(parser.parse_args(argv)))
    if asked.burst_steps is not None and asked.burst_steps < 1:
        parser.error(f"--burst {asked.burst_steps} must be at least 1")
    if asked.deadline_s is not None and asked.deadline_s <= 0:
        parser.error(f"--deadline-s {asked.deadline_s} must be above 0")
    return asked


def _attempt_name(text: str) -> str:
    if not is_key(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {KEY_WORDS}")
    return text


if __name__ == "__main__":
    code = main(owns_process=True)
    leave(code)
    sys.exit(code)
