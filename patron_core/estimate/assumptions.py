"""What an estimate rests on, in sentences: what was measured, what is a prior, what is left out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patron_core.estimate import wall
from patron_core.estimate.calibration import STARTUP_PHASES
from patron_core.interval import total
from patron_core.money import format_usd
from patron_core.scaling import outside

if TYPE_CHECKING:
    from patron_core.estimate.estimating import Estimate

GB = 1e9


def fp8_sentence(e: Estimate) -> str:
    if e.calibration is not None and e.calibration.fp8:
        return "Measured with fp8."
    return f"fp8 is taken for {wall.fp8_gain(e.device, e.recipe.depth):.2f} times as fast as bfloat16, not measured."


def assumptions_of(e: Estimate) -> list[str]:
    device, calibration = e.device, e.calibration
    sentences = [e.price.sentence()]
    if calibration is not None:
        step = f"{calibration.step_s:.3g} s a step at depth {calibration.depth}"
        sentences.append(f"Step time from {calibration.source}: {step}.")
        if calibration.flops_per_token != e.recipe.flops_per_token:
            sentences.append("It was another model; scaled by FLOPs and by the MFU expected of each depth.")
        sentences += [calibration.late.sentence] if calibration.late.sentence else []
    else:
        sentences.append(f"{e.mfu:.0%} MFU on {device.name}, from {device.mfu_source}; a dryrun replaces this.")
    if e.spec.fp8:
        sentences.append(f"{fp8_sentence(e)} What fp8 costs in loss is not in the forecast.")
    if e.world.ranks > 1 and calibration is None:
        share = wall.OVER_NODES if e.world.nodes > 1 else wall.OVER_GPUS
        sentences.append(f"{e.world.ranks} ranks are taken for {share:.0%} as fast as so many alone, not measured.")
    if not (calibration and calibration.eval_s):
        low, _, high = wall.EVAL_OVER_FORWARD["cpu" if device.is_cpu else "cuda"]
        sentences.append(f"An evaluation takes {low} to {high} times its arithmetic, a third of training's.")
    if not (calibration and calibration.startup_s):
        start = total(phase for name, phase in e.phases_s.items() if name in STARTUP_PHASES)
        sentences.append(f"{start.low:.0f} to {start.high:.0f} s before the first step are assumed, not measured.")
    sentences.append(
        "Peak memory was measured at this depth and micro-batch."
        if e.memory.measured
        else "Peak memory from a formula fitted to three published runs: 15 % lower to 20 % higher."
    )
    if e.price.spot:
        sentences.append("The upper bound pays for one reclaim of the spot machine every two hours, started anew.")
    if e.egress_usd_micros_per_gb:
        saves = f"a checkpoint of {e.checkpoint_bytes / GB:.1f} GB each {e.checkpoint_interval_s:.0f} s"
        sentences.append(f"Egress is held beside it: {saves}, at {format_usd(e.egress_usd_micros_per_gb)} a GB.")
    sentences.append(f"Loss on {e.spec.data}: {e.fit.source}.")
    if outside(e.fit, e.recipe.num_params.scaling, e.recipe.train_tokens) > 0:
        sentences.append("The run lies outside the range those runs cover, so its loss is an extrapolation.")
    return sentences
