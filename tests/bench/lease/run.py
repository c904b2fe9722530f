"""All parts of a lease, most wanted first, each with a time limit of its own, in one table that grows as they end.

Started by lease.sh, which says how. The table is lease.json in the output folder; beside it the log, a trace of one
step, and what was compiled, in pieces that fit a transfer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.jobs import ROOT, child_environ
from trainer.contract.files import read_json, write_json

BUDGET_S = 460.0  # of the eight minutes; the rest is for packing and starting
SHORTEST_S = 15.0  # with less left no part begins
SMOKE_PATIENCE = 3  # a rehearsal may share its cores with others
PIECE_BYTES = 15 * 2**20
MOST_PIECES = 4


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    part: str  # module.function of this package
    limit_s: float
    interpret: bool = False  # Triton in its interpreter where there is no GPU


PARTS = (
    Entry(name="machine", part="machine.describe", limit_s=40),
    Entry(name="kernels", part="correct.kernels", limit_s=60, interpret=True),
    Entry(name="attention", part="correct.attention", limit_s=110),
    Entry(name="d12", part="speed.d12", limit_s=170),
    Entry(name="model", part="correct.model", limit_s=90),
    Entry(name="d12_full_windows", part="speed.d12_full_windows", limit_s=90),
    Entry(name="upstream_d12", part="speed.upstream_d12", limit_s=120),
    Entry(name="runs", part="runs.runs", limit_s=120),
    Entry(name="d20", part="speed.d20", limit_s=110),
    Entry(name="d12_fp8", part="speed.d12_fp8", limit_s=90),
    Entry(name="d20_fp8", part="speed.d20_fp8", limit_s=110),
    Entry(name="d10", part="speed.d10", limit_s=90),
    Entry(name="upstream_equal", part="correct.upstream_equal", limit_s=60),
    Entry(name="upstream_d12_full_windows", part="speed.upstream_d12_full_windows", limit_s=100),
    Entry(name="checkpoint", part="costs.checkpoint", limit_s=90),
    Entry(name="evaluation", part="costs.evaluation", limit_s=120),
)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    started = time.monotonic()
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    warm(args.warm, args.caches)
    entries = [entry for entry in PARTS if not args.parts or entry.name in args.parts]
    table: dict[str, Any] = {"command": shlex.join(["lease.sh", *(sys.argv[1:] if argv is None else argv)])}
    table |= {"smoke": args.smoke, "warm": bool(args.warm), "parts": {}}

    def keep() -> None:
        table["seconds"] = time.monotonic() - started
        write_json(out / "lease.json", table)

    def run(entry: Entry, limit_s: float) -> dict[str, Any]:
        return run_part(entry, SMOKE_PATIENCE * limit_s if args.smoke else limit_s, args, out)

    def kept(name: str, result: dict[str, Any]) -> None:
        table["parts"][name] = result
        keep()
        print(f"{time.monotonic() - started:6.1f} s  {name}: {summary(result)}", flush=True)

    run_all(entries, run, kept, end=started + args.budget_s * (SMOKE_PATIENCE if args.smoke else 1))
    table["caches"] = pack(args.caches, out) if not args.smoke else "not kept from a rehearsal"
    keep()
    bad = [name for name, result in table["parts"].items() if result["status"] not in ("measured", "skipped")]
    print(f"{out / 'lease.json'}: {len(table['parts'])} parts, {', '.join(bad) if bad else 'none'} failed or left out")
    return 1 if args.smoke and bad else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lease.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "lease-out"))
    parser.add_argument("--vs", type=Path, metavar="PATH", help="a checkout of github.com/karpathy/nanochat")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S)
    parser.add_argument("--parts", nargs="+", choices=[entry.name for entry in PARTS], help="only these")
    parser.add_argument("--caches", type=Path, default=Path("/tmp/patron-lease"), help="where compiled code is kept")
    parser.add_argument("--warm", type=Path, nargs="+", default=[], help="pieces of an earlier lease's caches")
    parser.add_argument("--smoke", action="store_true", help="every part on the CPU at toy sizes")
    return parser.parse_args(argv)


def run_all(
    entries: list[Entry],
    run: Callable[[Entry, float], dict[str, Any]],
    kept: Callable[[str, dict[str, Any]], None],
    *,
    end: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Every entry gets a result, measured or with the reason why not."""
    for entry in entries:
        left_s = end - clock()
        if left_s < SHORTEST_S:
            kept(entry.name, {"status": "left out", "reason": f"{max(0.0, left_s):.0f} s of the budget were left"})
        else:
            kept(entry.name, run(entry, min(entry.limit_s, left_s)))


def run_part(entry: Entry, limit_s: float, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The part in a process group of its own, which ends with it, whatever it started."""
    result_path = args.caches / f"{entry.name}.json"
    args.caches.mkdir(parents=True, exist_ok=True)
    result_path.unlink(missing_ok=True)
    setting = {"smoke": args.smoke, "vs": str(args.vs.resolve()) if args.vs else None, "out": str(out)}
    command = [sys.executable, "-m", "tests.bench.lease.part", entry.part, json.dumps(setting), str(result_path)]
    start = time.monotonic()
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"\n== {entry.name}\n")
        log.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ(entry, args), stdout=log, stderr=log, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    found = read_json(result_path) or {}
    seconds = {"seconds": time.monotonic() - start, "limit_s": limit_s}
    return {"status": status(code, found)} | seconds | found


def status(code: int | None, found: Mapping[str, Any]) -> str:
    if code is None:
        return "ended by its limit"
    if "skipped" in found:
        return "skipped"
    return "measured" if code == 0 and found.get("ok", True) else "wrong" if code == 0 else f"failed, exit {code}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environ(entry: Entry, args: argparse.Namespace) -> dict[str, str]:
    caches: Path = args.caches
    here = {
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "PATRON_CACHE": str(caches / "patron"),
        "PATRON_METADATA_GCP": "off",
        "PATRON_METADATA_AWS": "off",
        "PYTHONUNBUFFERED": "1",
    }
    if args.smoke:
        here |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        here |= {key: os.environ[key] for key in ("TORCHINDUCTOR_CACHE_DIR",) if key in os.environ}
        here |= {"TRITON_INTERPRET": "1"} if entry.interpret else {}
    return child_environ() | here


def summary(result: Mapping[str, Any]) -> str:
    named = ("ok", "mfu", "tokens_per_s", "step_s", "compile_s", "peak_memory_bytes", "skipped", "reason", "error")
    said = ", ".join(f"{key} {str(result[key])[:150]}" for key in named if result.get(key) is not None)
    return f"{result['status']}{': ' if said else ''}{said}"


def warm(pieces: list[Path], caches: Path) -> None:
    """Unpack what an earlier lease compiled."""
    if not pieces:
        return
    caches.mkdir(parents=True, exist_ok=True)
    whole = caches / "caches.tar.gz"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in sorted(pieces)))
    with tarfile.open(whole) as archive:
        archive.extractall(caches, filter="data")
    whole.unlink()


def pack(caches: Path, out: Path) -> str:
    """What was compiled, in pieces; says what became of it."""
    whole = caches / "caches.tar.gz"
    with tarfile.open(whole, "w:gz", compresslevel=6) as archive:
        for name in ("inductor", "triton"):
            if (caches / name).exists():
                archive.add(caches / name, arcname=name)
    content = whole.read_bytes()
    whole.unlink()
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    if len(pieces) > MOST_PIECES:
        return f"{len(content):,} bytes, more than {MOST_PIECES} pieces of {PIECE_BYTES:,}: not kept"
    for number, piece in enumerate(pieces):
        (out / f"caches.tar.gz.{number}").write_bytes(piece)
    return f"{len(content):,} bytes in {len(pieces)} pieces"


if __name__ == "__main__":
    sys.exit(main())
