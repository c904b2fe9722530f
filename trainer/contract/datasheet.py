"""GPUs beyond the table, by their makers' datasheets, estimated with wide intervals until a dryrun measures them. Pure.

Dense bf16 peaks with float32 accumulation, of the very card: PCIe and NVL cards are slower than SXM ones. What a card
reaches of its peak at depth 12 follows its FLOPs for each byte of memory bandwidth, through the two cards that were
measured: 54.5 % at 200 (A100), 41.5 % at 295 (H100). The only published run on one of these, depth 12 on an RTX 4070,
is inside (tests/training/test_devices.py). An A100 in PCIe has the peak of its SXM sister and the power of 250 to 300 W
in the place of 400: NVIDIA's datasheet gives it 90 % of what that delivers. The MI250X is one of its two halves, which
is what torch sees.
"""

from __future__ import annotations

from typing import NamedTuple

from trainer.contract.gpus import DEVICES, GIB, Device, is_part

REFERENCE = DEVICES["A100-40GB"]
# the start of a match, and the card of the table with the same chip, whose own shares are known
SAME_CHIP = (("h100", "H100"), ("h200", "H100"), ("gh200", "H100"), ("a100 80gb", "A100-80GB"))
FALLS = 0.7  # power of FLOPs a byte that the reached share falls with
HIGHEST_MFU = 0.70
SPREAD = 0.40  # relative, either way
FP8 = ("h100", "h200", "gh200", "gb200", "l40", "rtx 6000 ada", "rtx 40", "rtx 50")  # AMD's is of another kind
USABLE = 0.97  # of the memory on the box, as torch reports it


class _Sheet(NamedTuple):
    name: str
    match: str  # part of torch's name, lower case
    memory_gib: int
    bf16_tflops: float
    f32_tflops: float
    gb_per_s: float
    power_share: float = 1.0  # of what the same peak delivers where the power is there


SHEETS = (
    _Sheet("A100-40GB-PCIe", "a100-pcie-40gb", 40, 312, 19.5, 1555, 0.9),
    _Sheet("A100-80GB-PCIe", "a100 80gb pcie", 80, 312, 19.5, 1935, 0.9),
    _Sheet("H100-PCIe", "h100 pcie", 80, 756, 51, 2000),
    _Sheet("H100-NVL", "h100 nvl", 94, 835, 60, 3900),
    _Sheet("H200-NVL", "h200 nvl", 141, 835, 60, 4800),
    _Sheet("GH200", "gh200", 96, 989, 67, 4000),
    _Sheet("GB200", "gb200", 186, 2450, 80, 8000),
    _Sheet("L40S", "l40s", 48, 362, 91.6, 864),
    _Sheet("L40", "l40", 48, 181, 90.5, 864),
    _Sheet("A40", "a40", 48, 149.7, 37.4, 696),
    _Sheet("A10", "a10", 24, 125, 31.2, 600),
    _Sheet("A10G", "a10g", 24, 70, 35, 600),
    _Sheet("A30", "a30", 24, 165, 10.3, 933),
    _Sheet("A6000", "rtx a6000", 48, 154.8, 38.7, 768),
    _Sheet("RTX6000-Ada", "rtx 6000 ada", 48, 364.2, 91.1, 960),
    _Sheet("RTX3060", "rtx 3060", 12, 25.5, 12.7, 360),
    _Sheet("RTX3070", "rtx 3070", 8, 40.6, 20.3, 448),
    _Sheet("RTX3080", "rtx 3080", 10, 59.5, 29.8, 760),
    _Sheet("RTX3090", "rtx 3090", 24, 71, 35.6, 936),
    _Sheet("RTX3090-Ti", "rtx 3090 ti", 24, 80, 40, 1008),
    _Sheet("RTX4060", "rtx 4060", 8, 30.2, 15.1, 272),
    _Sheet("RTX4060-Ti", "rtx 4060 ti", 16, 44.1, 22.1, 288),
    _Sheet("RTX4070", "rtx 4070", 12, 58.3, 29.1, 504),
    _Sheet("RTX4070-SUPER", "rtx 4070 super", 12, 70.9, 35.5, 504),
    _Sheet("RTX4070-Ti", "rtx 4070 ti", 12, 80.2, 40.1, 504),
    _Sheet("RTX4070-Ti-SUPER", "rtx 4070 ti super", 16, 88.2, 44.1, 672),
    _Sheet("RTX4080", "rtx 4080", 16, 97.5, 48.7, 717),
    _Sheet("RTX4080-SUPER", "rtx 4080 super", 16, 104.4, 52.2, 736),
    _Sheet("RTX5070", "rtx 5070", 12, 61.7, 30.9, 672),
    _Sheet("RTX5070-Ti", "rtx 5070 ti", 16, 87.9, 43.9, 896),
    _Sheet("RTX5080", "rtx 5080", 16, 112.6, 56.3, 960),
    _Sheet("RTX5090", "rtx 5090", 32, 209.5, 104.8, 1792),
    _Sheet("MI210", "mi210", 64, 181, 22.6, 1638),
    _Sheet("MI250X", "mi250x", 64, 191.5, 23.9, 1638),
    _Sheet("MI300X", "mi300x", 192, 1307, 163.4, 5300),
    _Sheet("MI325X", "mi325x", 256, 1307, 163.4, 6000),
    _Sheet("RX7900-XTX", "rx 7900 xtx", 24, 122.8, 61.4, 960),
)


def find_device(name: str) -> Device | None:
    """The device a person, SkyPilot or torch calls `name`, of the table or by its datasheet; None: nothing is known."""
    wanted = name.strip().lower()
    for device in DEVICES.values():
        if wanted in (device.name.lower(), (device.accelerator or "").lower()):
            return device
    known = [sheet for sheet in SHEETS if sheet.name.lower() == wanted or is_part(sheet.match, wanted)]
    if known:
        return _device(max(known, key=lambda sheet: len(sheet.match)))  # `rtx 4070 ti` is no `rtx 4070`
    return next((d for d in DEVICES.values() if any(is_part(part, wanted) for part in d.matches)), None)


def measured_device(name: str, *, memory_bytes: int, bf16_flops: float, f32_flops: float) -> Device:
    """A GPU that no list knows, by what its matrix products were measured to reach."""
    sheet = _Sheet(name, name.lower(), 0, bf16_flops / 1e12, f32_flops / 1e12, bf16_flops / 1e9 / _balance(REFERENCE))
    source = "its own matrix products, measured; of a training step nothing is known"
    return _device(sheet, memory_bytes=memory_bytes, source=source)


def _device(sheet: _Sheet, *, memory_bytes: int | None = None, source: str = "") -> Device:
    bf16_flops, bytes_per_s = 1e12 * sheet.bf16_tflops, 1e9 * sheet.gb_per_s
    like = next((DEVICES[name] for start, name in SAME_CHIP if sheet.match.startswith(start)), REFERENCE)
    share = sheet.power_share * (bf16_flops / bytes_per_s / _balance(like)) ** -FALLS
    highest = 1.0 if like is not REFERENCE else HIGHEST_MFU / dict(REFERENCE.mfu)[12]
    return Device(
        name=sheet.name,
        accelerator=None,
        memory_bytes=memory_bytes or int(USABLE * sheet.memory_gib * GIB),
        bf16_flops=bf16_flops,
        f32_flops=1e12 * sheet.f32_tflops,
        bytes_per_s=bytes_per_s,
        mfu=tuple((depth, mfu * min(highest, share)) for depth, mfu in like.mfu),
        mfu_batch_tokens=like.mfu_batch_tokens,
        mfu_spread=SPREAD,
        mfu_source=source or "its datasheet: no published run on this card, scaled by FLOPs a byte from A100 and H100",
        cores=8,
        matches=(sheet.match,),
        measured=False,
        has_fp8=sheet.match.startswith(FP8),
    )


def _balance(device: Device) -> float:
    return device.bf16_flops / device.bytes_per_s


assert not {sheet.name for sheet in SHEETS} & set(DEVICES), "a card is in the table or here"
