"""Small real runs, each forecast before it: predicted against actual, and their curves, as one small JSON file.

python -m tests.bench.forecasts --runs 40 --minutes 60 --out tests/bench/results/forecasts.json
OMP_NUM_THREADS=1 python -m tests.bench.forecasts --first 25 --runs 20 --depths 3,4   # more, added to those in FILE
python -m tests.bench.forecasts --table tests/bench/results/forecasts.json     # the table of an earlier one

Depth 1 to 4 on three corpora that every installation has: the standard library, the Python sources of installed
packages, and their licences and notes. The first run of a corpus and depth makes a dryrun; the others share its proof.
Beside each run are the machine's load before and after it, and what its parts took beside what was said of them before
any lateness.
The home is kept (PATRON_HOME, or a temporary folder), so that a second call goes on with what the first one learned.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patron_core import verbs
from patron_core.errors import PatronError
from patron_core.estimate.accuracy import Forecast, accuracy
from patron_core.estimate.calibration import LEAST_SPREAD
from patron_core.estimate.lateness import Lateness, Timing
from patron_core.interval import Interval
from patron_core.lifecycle.learned import machine_of
from patron_core.rundir.record import record_of
from patron_core.rundir.rundir import RunDir
from patron_core.scaling.projection import project
from patron_core.states import RunState
from patron_core.store import Store, calibrations, runs
from patron_core.store.records import Run
from patron_core.verbs.adopt import adopt
from tests.corpus import some_texts
from trainer.contract.devices import describe_cpu
from trainer.contract.spec import TrainSpec

BASE: dict[str, Any] = {
    "sequence_len": 64, "vocab_size": 512, "batch_tokens": 512, "device_batch_size": 8, "eval_every_steps": 25,
    "eval_tokens": 8192, "device": "cpu", "checkpoint_every_s": 0,
}  # fmt: skip
STEPS = (100, 150, 250)
DEPTHS = "1,2,3,4"
CORPUS_BYTES = 6_000_000
CURVE_POINTS = 40
SHARES = (0.2, 0.3, 0.5, 0.75)  # of a run's steps, from which its curve is continued


def corpora(folder: Path) -> dict[str, str]:
    """The name of each and its `data`."""
    packages = Path(sysconfig.get_paths()["purelib"])
    folder.mkdir(parents=True, exist_ok=True)
    found = {"stdlib": "stdlib"}
    for name, patterns in (("packages", ("*.py",)), ("notes", ("*.md", "*.rst", "*.txt", "METADATA", "LICENSE*"))):
        file = folder / f"{name}.txt"
        if not file.exists():
            files = sorted(path for pattern in patterns for path in packages.rglob(pattern) if path.is_file())
            file.write_text("\n\n\n".join(some_texts(files, CORPUS_BYTES)))
        found[name] = f"path:{file}"
    return found


def specs(data: dict[str, str], first: int, count: int, depths: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(corpus, spec), in an order that mixes all; seeds count up."""
    rng = random.Random(1 + first)
    for number in range(first, first + count):
        corpus = list(data)[number % len(data)]
        depth = depths[(number // len(data)) % len(depths)]
        yield corpus, BASE | {"data": data[corpus], "depth": depth, "num_steps": rng.choice(STEPS), "seed": number}


def make(store: Store, spec: dict[str, Any], proven: dict[tuple[str, int], str], number: int) -> Run:
    """One run from its plan to its end."""
    run = verbs.plan(store, spec=spec, actor="bench", name=f"forecast {number}")
    shape = (spec["data"], spec["depth"])
    if shape in proven:
        adopt(store, run.id, proven[shape], actor="bench")
    else:
        verbs.dryrun(store, run.id, actor="bench")
        verbs.wait(store, run.id, timeout_s=300)
        proven[shape] = run.id
    verbs.fund(store, run.id, usd_micros=5_000_000, actor="bench", key="fund")  # a busy machine may take far longer
    verbs.launch(store, run.id, actor="bench")
    return verbs.wait(store, run.id, timeout_s=600).run


def described(
    store: Store, run: Run, corpus: str, load: tuple[float, float], forecasts: list[Forecast]
) -> dict[str, Any]:
    record = record_of(RunDir(run.run_dir))
    steps = run.spec["num_steps"]
    bins: dict[int, list[tuple[int, float]]] = {}
    for step, loss in record.curve("train/loss"):
        bins.setdefault((step - 1) * CURVE_POINTS // steps, []).append((step, loss))
    curve = [[round(sum(s for s, _ in some) / len(some), 1), round(sum(v for _, v in some) / len(some), 4)]
             for some in bins.values()]  # fmt: skip
    said = [
        {"quantity": f.quantity, "stage": f.stage}
        | {k: figure(getattr(f, k)) for k in ("low", "mid", "high", "actual")}
        for f in forecasts
        if f.run == run.id
    ]
    measured = calibrations.latest(store, machine_of(run), kind="timing")
    timing = next((row.values for row in measured if row.run_id == run.id), {})
    burst = (run.dryrun or {}).get("measured", {})
    return {
        "corpus": corpus,
        "load": load,
        "dryrun": {key: figure(burst.get(key)) for key in ("step_s", "step_s_iqr", "core_share")},
        "core_share": figure((run.result or {}).get("core_share")),
        "timing": {of: {name: figure(s) for name, s in seconds.items()} for of, seconds in timing.items()},
        "depth": run.spec["depth"],
        "num_steps": steps,
        "seed": run.spec["seed"],
        "forecasts": said,
        "train_loss": curve,
        "val_bpb": [[step, round(value, 4)] for step, value in record.curve("val/bpb")],
    }


def figure(value: float | None) -> float | None:
    """Five digits of it."""
    return None if value is None else float(f"{value:.5g}")


def table(found: list[dict[str, Any]]) -> str:
    rows = [
        Forecast(run=str(n), name="", device="cpu", corpus=run["corpus"], depth=run["depth"], **said)
        for n, run in enumerate(found)
        for said in run["forecasts"]
    ]
    lines = [f"{'':18} {'stage':8} {'runs':>4} {'error':>6} {'bias':>7} {'inside':>7}"]
    lines += [
        f"{a.quantity:18} {a.stage:8} {a.runs:4} {a.mean_abs_error:6.1%} {a.bias:+7.1%} {a.coverage:7.0%}"
        for a in accuracy(rows)
    ]
    lines.append(f"\n{'step_s, by today':18} {'from':8} {'runs':>4} {'error':>6} {'bias':>7} {'inside':>7}")
    for known in ("before", "others"):
        again = steps_again(found, known)
        error = sum(abs(f.error) for f in again) / len(again)
        bias = sum(f.error for f in again) / len(again)
        inside = sum(f.is_inside for f in again) / len(again)
        lines.append(f"{'':18} {known:8} {len(again):4} {error:6.1%} {bias:+7.1%} {inside:7.0%}")
    lines.append(f"\n{'curve':18} {'share':8} {'runs':>4} {'error':>6} {'inside':>7}")
    for kind in ("val_bpb", "train_loss"):
        for share in SHARES:
            ends = curve_ends(found, kind, share)
            error = sum(away for _, away in ends) / len(ends)
            lines.append(f"{kind:18} {share:<8} {len(ends):4} {error:6.1%} {sum(inside for inside, _ in ends):7}")
    return "\n".join(lines)


def steps_again(found: list[dict[str, Any]], known: str) -> list[Forecast]:
    """Each run's step time by what today's code learns of the runs `before` it, or of all `others`.

    What a step takes undisturbed was not measured in the first of these runs: by FLOPs, the fastest known one.
    """
    actual = [next(f["actual"] for f in run["forecasts"] if f["quantity"] == "step_s") for run in found]
    flops = [TrainSpec.from_dict(BASE | {"depth": run["depth"]}).recipe().flops_per_token for run in found]
    forecasts = []
    for n, run in enumerate(found):
        newest = [*range(n - 1, -1, -1), *(range(n + 1, len(found)) if known == "others" else ())]
        if not newest:
            continue
        fastest = min(actual[k] / flops[k] for k in newest)
        late = Lateness.of(
            [Timing(said_s={"steps": 100 * fastest * flops[k]}, taken_s={"steps": 100 * actual[k]}) for k in newest]
        )
        mid, spread = fastest * flops[n], LEAST_SPREAD["cpu"]
        said = late.steps.factored(Interval(mid / (1 + spread), mid, mid / (1 - spread)))
        forecasts.append(
            Forecast(
                run=str(n), name="", device="cpu", corpus=run["corpus"], depth=run["depth"], quantity="step_s",
                stage="funding", **said.to_dict(), actual=actual[n],
            )
        )  # fmt: skip
    return forecasts


def curve_ends(found: list[dict[str, Any]], kind: str, share: float) -> list[tuple[bool, float]]:
    """Of each run whether its curve, continued from that share of its steps, ended inside, and how far from the middle.

    The train loss ends at the mean of its last tenth, which is itself unsure.
    """
    ends = []
    for run in found:
        num_steps, curve = run["num_steps"], run[kind]
        so_far = [(step, value) for step, value in curve if step <= share * num_steps]
        last = [value for step, value in curve if step > 0.9 * num_steps] if kind == "train_loss" else [curve[-1][1]]
        final = project(so_far, num_steps=num_steps, warmdown_start_step=num_steps - round(0.65 * num_steps)).final
        unsure = 1.645 * statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else 0.0
        away = abs(math.log(statistics.mean(last) / final.mid))
        ends.append((away <= math.hypot(math.log(final.high / final.low) / 2, unsure / final.mid), away))
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="begin at run N; earlier ones in the file stay"
    )
    parser.add_argument("--depths", default=DEPTHS, help="in this order (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="no run is begun after so long")
    parser.add_argument("--out", type=Path, default=Path("tests/bench/results/forecasts.json"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these runs and make none")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())["runs"]))
        return
    home = Path(os.environ.setdefault("PATRON_HOME", tempfile.mkdtemp(prefix="patron-forecasts-")))
    end = time.monotonic() + 60 * args.minutes
    data = corpora(home / "corpora")
    store = Store.open()
    verbs.deposit(store, usd_micros=900_000_000, key="bench", actor="bench")
    proven: dict[tuple[str, int], str] = {}
    depths = [int(word) for word in args.depths.split(",")]
    kept = json.loads(args.out.read_text())["runs"][: args.first] if args.first else []
    made: list[tuple[str, str, tuple[float, float]]] = []
    for number, (corpus, spec) in enumerate(specs(data, args.first, args.runs, depths), args.first):
        if time.monotonic() > end:
            break
        before = round(os.getloadavg()[0], 1)
        try:
            run = make(store, spec, proven, number)
        except PatronError as error:
            print(f"run {number}: {error}")
            continue
        print(f"run {number}: {corpus} d{spec['depth']} {spec['num_steps']} steps: {run.state}", flush=True)
        if run.state is RunState.SUCCEEDED:
            made.append((run.id, corpus, (before, round(os.getloadavg()[0], 1))))
            forecasts = verbs.forecasts(store)
            found = [described(store, runs.get_run(store, one), of, load, forecasts) for one, of, load in made]
            cpu = {key: describe_cpu()[key] for key in ("model", "cores")}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"cpu": cpu, "runs": [*kept, *found]}, separators=(",", ":")) + "\n")
    store.close()
    print(table(json.loads(args.out.read_text())["runs"]))


if __name__ == "__main__":
    main()
