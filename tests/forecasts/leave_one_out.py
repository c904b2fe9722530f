"""Each published run predicted without itself: step time and wall, memory, bits per byte.

Step time and wall: the depth that the run stands behind is taken out of its device's MFU table (of the A100, whose only
published depth is 10, the whole table: it is then estimated as a card beyond the table is, by the H100 and its
datasheet, with an exponent that went through both).
Memory: what contract.footprint fitted is scaled to the other two runs. Bits per byte: the law of the corpus
is fitted to its other anchors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from patron_core.estimate import estimate
from patron_core.estimate.accuracy import Accuracy, Forecast, accuracy
from patron_core.estimate.memory import SPREAD
from patron_core.interval import Interval
from patron_core.prices import fallback_price, local_price
from patron_core.scaling import Observation, predict
from patron_core.scaling.anchors import _UNKNOWN_PRIOR, _WEB_PRIOR, CLIMBMIX, FINEWEB_EDU, STDLIB, WEB_REGIME, _fitted
from patron_core.scaling.fitting import Prior
from trainer.contract.datasheet import FALLS
from trainer.contract.datasheet import SPREAD as SHEET_SPREAD
from trainer.contract.devices import DEVICES, Device, find_device
from trainer.contract.footprint import memory_parts
from trainer.contract.ranks import WorldSize
from trainer.contract.spec import TrainSpec

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text())


def forecasts() -> list[Forecast]:
    return [*_steps(), *_walls(), *_memory(), *_bits()]


def table() -> list[Accuracy]:
    return accuracy(forecasts())


def _steps() -> Iterator[Forecast]:
    for run in PUBLISHED["step"]:
        spec, device, world = TrainSpec.from_dict(run["spec"]), _without(run), WorldSize(per_node=run["ranks"])
        recipe = spec.recipe()
        known = DEVICES.get(run["device"])
        row = estimate(spec, device, price=local_price(100_000, as_of="today"), world=world, local=False)
        actual = run.get("step_s")
        if actual is None:
            assert known is not None
            actual = recipe.flops_per_token * recipe.batch_tokens / (run["mfu"] * known.bf16_flops * world.ranks)
        yield _forecast(run["label"], "step_s", row.step_s, actual, device=run["device"])


def _walls() -> Iterator[Forecast]:
    for run in PUBLISHED["wall"]:
        price = fallback_price(run["device"], spot=False)
        row = estimate(TrainSpec.from_dict(run["spec"]), _without(run), price=price)
        yield _forecast(run["label"], "wall_s", row.wall_s, sum(run["wall_s"]) / 2, device=run["device"])


def _without(run: dict[str, Any]) -> Device:
    device = find_device(run["device"])
    assert device is not None
    if run["device"] == "A100-40GB":
        h100 = DEVICES["H100"]
        share = (device.bf16_flops / device.bytes_per_s / (h100.bf16_flops / h100.bytes_per_s)) ** -FALLS
        mfu = tuple((depth, share * reached) for depth, reached in h100.mfu)
        return replace(device, mfu=mfu, mfu_batch_tokens=h100.mfu_batch_tokens, mfu_spread=SHEET_SPREAD)
    left = tuple((depth, share) for depth, share in device.mfu if depth != run.get("mfu_depth"))
    return replace(device, mfu=left)


def _memory() -> Iterator[Forecast]:
    runs = PUBLISHED["memory"]
    parts = [_parts(run) for run in runs]
    for index, run in enumerate(runs):
        others = [n for n in range(len(runs)) if n != index]
        factor = sum(runs[n]["peak_bytes"] - parts[n][0] for n in others) / sum(parts[n][1] for n in others)
        peak = parts[index][0] + factor * parts[index][1]
        low, mid, high = (share * peak for share in SPREAD)
        yield _forecast(run["label"], "peak_memory_bytes", Interval(low, mid, high), run["peak_bytes"], device="GPU")


def _parts(run: dict[str, Any]) -> tuple[float, float]:
    """(what is counted, what was fitted: activations and head) of upstream, whose head is whole."""
    spec = TrainSpec.from_dict(run["spec"] | {"num_steps": 100})
    size = spec.micro_batch_size()
    parts = memory_parts(
        spec.recipe(), micro_batch_size=size, item_bytes=2, compiled=True, cpu=False, chunked_head=False
    )
    fitted = parts.pop("activations") + parts.pop("head")
    return sum(parts.values()), fitted


def _bits() -> Iterator[Forecast]:
    corpora: tuple[tuple[str, tuple[Observation, ...], Prior], ...] = (
        ("fineweb-edu", FINEWEB_EDU, _WEB_PRIOR),
        ("climbmix", CLIMBMIX, _WEB_PRIOR),
        ("stdlib", STDLIB, _UNKNOWN_PRIOR),
    )
    for corpus, anchors, prior in corpora:
        for index, run in enumerate(anchors):
            others = (*anchors[:index], *anchors[index + 1 :])
            fit = _fitted(corpus, prior, others, [], "without one", WEB_REGIME)
            said = predict(fit, run.num_params, run.num_tokens)
            yield _forecast(run.label, "val_bpb", said, run.val_bpb, corpus=corpus)


def _forecast(
    label: str, quantity: Any, said: Interval, actual: float, *, device: str = "", corpus: str = ""
) -> Forecast:
    return Forecast(
        run=label, name=label, device=device, corpus=corpus, depth=0, quantity=quantity, stage="plan",
        low=said.low, mid=said.mid, high=said.high, actual=actual,
    )  # fmt: skip
