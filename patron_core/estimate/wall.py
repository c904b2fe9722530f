"""Wall time of a run, phase by phase. Pure.

Phases: provisioning, data, tokenizer, compile, steps, evals, checkpoints, the last one's upload, and on spot machines
recovery. What a calibration measured is scaled to the asked run (exactly for the same model, by the ratio of MFU for
another depth); the rest comes from the constants below, which are priors with honest widths.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from patron_core.estimate.calibration import START, STARTUP_PHASES, Calibration
from patron_core.interval import ZERO, Interval, total
from trainer.contract.devices import Device
from trainer.contract.ranks import ONE, WorldSize
from trainer.contract.recipe import Recipe
from trainer.contract.spec import TrainSpec
from trainer.contract.storage import checkpoint_bytes

PROVISIONING_S = Interval(60, 180, 420)  # a cloud machine with its image, packages and code
CUDA_COMPILE_S = Interval(30, 60, 150)
CPU_COMPILE_S = Interval(20, 60, 150)
PREPARED_S = Interval(0.0, 0.1, 1.0)  # token shards are hashed at each start
PROCESS_START_S = Interval(3, 6, 20)  # interpreter, torch, model, first step
DOWNLOAD_S_PER_BYTE = Interval(1 / 200e6, 1 / 80e6, 1 / 25e6)
# Encoding, and training the tokenizer: 2.2 MB/s a core measured for both (31.5 MB of source code, 2 busy cores)
TOKENIZE_CORE_S_PER_BYTE = Interval(1 / 4e6, 1 / 2.2e6, 1 / 0.8e6)
TOKENIZER_TRAINING_BYTES_PER_TOKEN = 4000  # trainer.data.tokenizer; a test compares
REMOTE_SHARD_BYTES = 250e6  # of text; whole shards are fetched, and one more is held out
COMPRESSION = 0.45  # of that text on the wire
MOST_LOST_S = 1800.0
SAVE_BYTES_PER_S = {"cpu": 0.4e9, "cuda": 1.0e9}
STALL_SHARE = Interval(0.1, 0.5, 1.0)  # of a save that the steps wait for
# An evaluation against its arithmetic at training MFU. CPU: 1.5 at depth 1 and 2, where the loss is most of the work
EVAL_OVER_FORWARD = {"cuda": Interval(0.9, 1.15, 1.7), "cpu": Interval(0.9, 1.5, 2.2)}
MICRO_BATCH_HALF_TOKENS = 2570.0  # from depth 10 on A100: 53 % at 32768 tokens in a micro-batch, 55 % at 65536
# Of the speed of so many alone: sums of gradients and sharded updates over NVLink, and over a network (a prior). The
# published MFU of depth 18 and 24 on H100 is that of each of eight GPUs already, so little is left to lose
OVER_GPUS, OVER_NODES, RANKS_SPREAD = 0.97, 0.7, 0.15
AFTER_START = ("steps", "evals", "checkpoints", "upload", "recovery")  # phases; the others come before the first step
UPLOAD_SPREAD = Interval(0.7, 1.0, 1.5)  # of a bucket's speed, measured once
# fp8's times as fast as bfloat16: upstream's 740 against 630 thousand tokens/s at depth 26 on eight H100, slower at 12
FP8_GAIN = ((12, 0.97), (26, 1.17))
FP8_ON_CPU, FP8_SPREAD = 0.5, 0.10
SPOT_MTBF_S = Interval(math.inf, 6 * 3600, 2 * 3600)
STDLIB_BYTES = 31.5e6  # CPython 3.11's, as read by trainer.data
STDLIB_TRAIN_TOKENS = 8.5e6  # at 4096 ids; 7.2 M at 16384, 6.9 M at 32768
CORPUS_VAL_TOKENS = {"stdlib": 500_000}  # an evaluation reads no more than there is


def eval_steps(num_steps: int, every: int) -> list[int]:
    """Steps after which the validation loss is measured: 0, every `every`, and the end. `every` 0: the end only."""
    if every <= 0:
        return [num_steps]
    steps = list(range(0, num_steps, every))
    steps.append(num_steps)
    return steps


def count_evals(num_steps: int, every: int) -> int:
    """len(eval_steps(...)) without the list."""
    return 1 if every <= 0 else 1 + -(-num_steps // every)


def mfu_at(device: Device, depth: int) -> float:
    """The device's MFU at a depth, between its table's depths on a logarithmic axis."""
    table = device.mfu
    if depth <= table[0][0]:
        return table[0][1]
    for (d0, m0), (d1, m1) in itertools.pairwise(table):
        if depth <= d1:
            return m0 + (m1 - m0) * math.log(depth / d0) / math.log(d1 / d0)
    return table[-1][1]


def prior_flops_per_s(device: Device, depth: int, micro_batch_tokens: int, item_bytes: int) -> float:
    """Model FLOP/s expected of a device; small micro-batches lose some of it on GPUs."""
    peak = device.bf16_flops if item_bytes == 2 else device.f32_flops
    if device.is_cpu:
        return peak * mfu_at(device, depth)
    half = MICRO_BATCH_HALF_TOKENS
    batch_factor = (1 + half / device.mfu_batch_tokens) / (1 + half / micro_batch_tokens)
    return peak * min(0.85, mfu_at(device, depth) * batch_factor)


def fp8_gain(device: Device, depth: int) -> float:
    """Times faster than bfloat16, on a logarithmic axis between upstream's two; on a CPU it is emulated."""
    if device.is_cpu:
        return FP8_ON_CPU
    (d0, g0), (d1, g1) = FP8_GAIN
    return g0 + (g1 - g0) * math.log(min(max(depth, d0), d1) / d0) / math.log(d1 / d0)


def times_faster(device: Device, world: WorldSize) -> float:
    """Than one process: GPUs add up, less what the ranks wait for each other; processes on one CPU share its cores."""
    if world.ranks == 1:
        return 1.0
    machines = world.nodes * (1 if device.is_cpu else world.per_node)
    return machines * (OVER_NODES if world.nodes > 1 else OVER_GPUS)


def step_seconds(
    recipe: Recipe,
    device: Device,
    micro_batch_tokens: int,
    item_bytes: int,
    calibration: Calibration | None,
    world: WorldSize = ONE,
    fp8: bool = False,
) -> Interval:
    """Of a whole batch, by all ranks together. From a measurement on a CPU: without others' work there."""
    flops = recipe.flops_per_token * recipe.batch_tokens
    expected = prior_flops_per_s(device, recipe.depth, micro_batch_tokens, item_bytes) * times_faster(device, world)
    spread = device.mfu_spread + (0.0 if world.ranks == 1 else RANKS_SPREAD)
    if fp8:
        expected *= fp8_gain(device, recipe.depth)
        spread += FP8_SPREAD
    if calibration is not None:
        same = prior_flops_per_s(device, calibration.depth, calibration.micro_batch_tokens, item_bytes)
        same *= times_faster(device, world) * (fp8_gain(device, calibration.depth) if calibration.fp8 else 1.0)
        expected = calibration.flops_per_s * expected / same
        spread = calibration.step_spread
        if calibration.flops_per_token != recipe.flops_per_token:
            spread += 0.04 + 0.06 * abs(math.log(recipe.depth / calibration.depth))
        if calibration.micro_batch_tokens != micro_batch_tokens:
            spread += 0.03
        if calibration.fp8 != fp8:
            spread += FP8_SPREAD
    spread = min(spread, 0.9)
    mid = flops / expected * (1.0 if calibration is None else calibration.undisturbed)
    return Interval(mid / (1 + spread), mid, mid / (1 - spread))


def evaluated_tokens(data: str, asked: int) -> int:
    """An evaluation reads no more than its corpus has."""
    return min(asked, CORPUS_VAL_TOKENS.get(data, asked))


def eval_seconds(
    spec: TrainSpec, recipe: Recipe, device: Device, step_s: Interval, calibration: Calibration | None
) -> Interval:
    """One pass: forward only, a third of the arithmetic of training on as many tokens."""
    tokens = evaluated_tokens(spec.data, spec.eval_tokens)
    if calibration is not None and calibration.eval_s is not None and calibration.eval_tokens:
        seen = evaluated_tokens(spec.data, calibration.eval_tokens)
        one = (
            calibration.eval_s
            * calibration.undisturbed
            * tokens
            / seen
            * recipe.flops_per_token
            / calibration.flops_per_token
        )
        wide = 0.03 if calibration.flops_per_token == recipe.flops_per_token else 0.12
        return Interval(one * (1 - wide), one, one * (1 + wide))
    share = tokens / recipe.batch_tokens / 3
    over_forward = EVAL_OVER_FORWARD["cpu" if device.is_cpu else "cuda"]
    return Interval(*(share * s * over for s, over in zip(step_s, over_forward, strict=True)))


def bos_eval_share(spec: TrainSpec) -> float:
    """Of an evaluation: what the one on nanochat's rows takes."""
    return (spec.bos_eval_tokens or 0) / evaluated_tokens(spec.data, spec.eval_tokens)


def startup_phases(
    spec: TrainSpec,
    recipe: Recipe,
    device: Device,
    *,
    local: bool,
    compiled: bool,
    prepared: bool,
    calibration: Calibration | None,
) -> dict[str, Interval]:
    """From launch to the first step. `prepared`: the tokens are in the machine's cache, so only a check is left."""
    phases = _startup_phases(spec, recipe, device, local=local, compiled=compiled, calibration=calibration)
    return phases | ({"data": PREPARED_S, "tokenizer": ZERO} if prepared and "data" in phases else {})


def _startup_phases(
    spec: TrainSpec, recipe: Recipe, device: Device, *, local: bool, compiled: bool, calibration: Calibration | None
) -> dict[str, Interval]:
    if calibration is not None and calibration.startup_s:
        return _measured_startup(calibration.startup_s, local)
    phases = {"provisioning": ZERO if local else PROVISIONING_S}
    text_bytes, download_bytes = corpus_bytes(spec, recipe)
    wanted_bytes = spec.tokenizer_chars or TOKENIZER_TRAINING_BYTES_PER_TOKEN * recipe.vocab_size
    training_bytes = min(wanted_bytes, text_bytes)
    fetch = DOWNLOAD_S_PER_BYTE.scaled(download_bytes * (8 if local else 1))  # a home line against a data centre's
    encode = TOKENIZE_CORE_S_PER_BYTE.scaled(text_bytes / device.cores)
    data = total((fetch, encode))
    tokenizer = TOKENIZE_CORE_S_PER_BYTE.scaled(training_bytes / device.cores)
    # on this machine an earlier run may have left both behind
    phases["data"] = data._replace(low=0.0) if local else data
    phases["tokenizer"] = tokenizer._replace(low=0.0) if local else tokenizer
    compile_s = (CPU_COMPILE_S if device.is_cpu else CUDA_COMPILE_S) if compiled else ZERO
    phases[START] = total((compile_s, PROCESS_START_S))
    return phases


def corpus_bytes(spec: TrainSpec, recipe: Recipe) -> tuple[float, float]:
    """Text to tokenize, and bytes to download for it."""
    if spec.data == "stdlib":
        return STDLIB_BYTES, 0.0
    text_bytes = recipe.train_tokens * bytes_per_token(recipe.vocab_size)
    if spec.data.startswith("path:"):
        return text_bytes, 0.0
    shards = math.ceil(text_bytes / REMOTE_SHARD_BYTES) + 1
    return shards * REMOTE_SHARD_BYTES, shards * REMOTE_SHARD_BYTES * COMPRESSION


def corpus_train_tokens(data: str, vocab_size: int) -> int | None:
    """About how many tokens a corpus has to train on, on the low side; None: unknown, or more than a run will read."""
    if data != "stdlib":
        return None
    return int(0.97 * STDLIB_TRAIN_TOKENS * (vocab_size / 4096) ** -0.11)


def _measured_startup(startup_s: Mapping[str, float], local: bool) -> dict[str, Interval]:
    if "startup" in startup_s:
        seconds = startup_s["startup"]
        return {"startup": Interval(0.7 * seconds, seconds, 1.3 * seconds)}
    phases: dict[str, Interval] = {}
    for name in STARTUP_PHASES:
        seconds = startup_s.get(name, 0.0)
        if name not in startup_s:
            phases[name] = PROVISIONING_S if name == "provisioning" and not local else ZERO
        elif local and name in ("data", "tokenizer"):
            phases[name] = Interval(0.0, 0.5 * seconds, 1.1 * seconds)  # cached here by the run that measured it
        else:
            phases[name] = Interval(0.7 * seconds, seconds, 1.4 * seconds)
    return phases


def bytes_per_token(vocab_size: int) -> float:
    """Of prose: 4.7 at 32768, less for smaller vocabularies."""
    return float(4.7 * (vocab_size / 32768) ** 0.13)


def save_seconds(recipe: Recipe, device: Device, item_bytes: int, calibration: Calibration | None) -> float:
    if calibration is not None and calibration.checkpoint_s is not None:
        return calibration.checkpoint_s
    return checkpoint_bytes(recipe, item_bytes) / SAVE_BYTES_PER_S["cpu" if device.is_cpu else "cuda"]


def checkpoint_interval_s(
    spec: TrainSpec, save_s: float, step_s: float, *, upload_s: float = 0.0, costs_s: float = 0.0
) -> float:
    """Seconds between saves: as asked, else Young's sqrt(2 stall MTBF) with a machine lost every two hours.

    `upload_s`: a save is up before the next one. `costs_s`: what its egress costs, in seconds of the machine. At most
    MOST_LOST_S, so that what a reclaim can take back is bounded.
    """
    if spec.checkpoint_every_steps:
        return spec.checkpoint_every_steps * step_s
    if spec.checkpoint_every_s is not None:
        return spec.checkpoint_every_s or math.inf
    return max(upload_s, best_interval_s(STALL_SHARE.mid * save_s + costs_s))


def best_interval_s(cost_s: float) -> float:
    """Between saves that cost so many seconds of the machine each."""
    return max(15.0, min(math.sqrt(2 * cost_s * SPOT_MTBF_S.high), MOST_LOST_S))


def checkpoint_seconds(
    steps_s: Interval, save_s: float, interval_s: float, calibration: Calibration | None
) -> Interval:
    """Time the steps wait for saves, the last save (waited for in full) included."""
    stall = STALL_SHARE.scaled(save_s)
    if calibration is not None and calibration.checkpoint_stall_s is not None:
        stall = Interval(0.7, 1.0, 1.5).scaled(calibration.checkpoint_stall_s)
    return Interval(*(save_s + one * (s // interval_s) for s, one in zip(steps_s, stall, strict=True)))


def again_seconds(startup: Interval, work: Interval, interval_s: float) -> Interval:
    """What one reclaim takes: a new machine, a new start, and half a checkpoint interval again, at worst all of it."""
    mid = startup.mid + min(interval_s, work.mid) / 2
    return Interval(startup.low, mid, startup.high + min(interval_s, work.high))


def recovery_seconds(wall: Interval, again: Interval, spot: bool) -> Interval:
    """Spot machines are taken away."""
    if not spot:
        return ZERO
    return Interval(0.0, again.mid * wall.mid / SPOT_MTBF_S.mid, again.high * math.ceil(wall.high / SPOT_MTBF_S.high))
