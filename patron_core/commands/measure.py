"""`patron measure`: what this machine's processor or GPU reaches, in a few seconds; estimates of it begin there.

A GPU that no list knows is estimated by what is measured here; what a training step takes of it a dryrun measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patron_core.machines import this_machine
from patron_core.store import Store
from patron_core.ui.script import Arguments, open_command


class MeasureArguments(Arguments):
    pass


def main(argv: Sequence[str]) -> int:
    session = open_command(MeasureArguments, argv, prog="measure", description=__doc__ or "")
    store = session.open_lab()
    assert store is not None
    answer = session.call(_measure, store).value or {}
    device = answer["device"]
    text = (
        f"{device['name']}: {device['bf16_flops'] / 1e12:.3g} TFLOP/s in bfloat16, {device['f32_flops'] / 1e12:.3g} in "
        f"float32, {device['memory_bytes'] / 1e9:.1f} GB{this_machine.busy_words()}"
    )
    session.emit(answer | {"next": "patron estimate --devices local"}, text)
    return 0


def _measure(store: Store) -> dict[str, Any]:
    profile = this_machine.measured_profile(store, again=True)
    device = this_machine.this_device(store)
    peaks = {key: getattr(device, key) for key in ("name", "bf16_flops", "f32_flops", "memory_bytes", "mfu_source")}
    return {"device": peaks, "profile": profile}
