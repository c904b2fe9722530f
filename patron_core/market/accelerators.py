"""SkyPilot's names for GPUs and ours, in one table, and the rows whose name promises another card. Pure.

SkyPilot asks for an accelerator by its exact name, and a name is not the same card everywhere: `A100` is the 40 GB card
(its 80 GB sister is `A100-80GB`), and `H100` is the PCIe card, a quarter slower, on clouds that sell the SXM card as
`H100-SXM`, as `A100-80GB` is beside `A100-80GB-SXM`. Names were read in SkyPilot 0.14.1's catalog fetchers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.contract.devices import DEVICES

MEMORY_TOLERANCE = 0.10  # catalogs say GB or GiB


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    name: str  # SkyPilot's exact name
    device: str  # ours: a row of trainer.contract.gpus
    memory_gib: float  # as catalogs give it


ACCELERATORS = tuple(
    Accelerator(name=name, device=device, memory_gib=memory_gib)
    for device, memory_gib, names in (
        ("A100-40GB", 40, ("A100",)),
        ("A100-80GB", 80, ("A100-80GB", "A100-80GB-SXM")),
        ("H100", 80, ("H100", "H100-SXM", "H100-MEGA")),  # MEGA: the same card with a faster network
        ("H200", 141, ("H200", "H200-SXM")),
        ("B200", 180, ("B200",)),
        ("L4", 24, ("L4",)),
        ("RTX4090", 24, ("RTX4090",)),
    )
    for name in names
)
_PCIE = "the PCIe card, slower than the SXM card that estimates are made for"
_NVL = "the NVL card, slower than the SXM card that estimates are made for"
_ANY = "its name there does not say whether it is the SXM, the PCIe or the NVL card"
_OTHER_CARD = {  # (cloud, name): why that name is not the device of the table there
    ("runpod", "H100"): _PCIE,
    ("runpod", "A100-80GB"): _PCIE,
    ("fluidstack", "H100"): _PCIE,
    ("fluidstack", "A100-80GB"): _PCIE,
    ("fluidstack", "A100"): _ANY,
    ("vast", "H100"): _ANY,
    ("vast", "H200"): _ANY,
    ("vast", "A100"): _ANY,
    ("vast", "A100-80GB"): _ANY,
    ("seeweb", "A100"): "the 80 GB card under the 40 GB card's name",
}
_LAMBDA_PCIE = re.compile("gpu_[124]x_a100")  # its SXM machines have it in their names, or eight cards


def names_of(device: str) -> tuple[str, ...]:
    """SkyPilot's names for one of our devices, the plain one first; none for this machine's CPU."""
    return tuple(one.name for one in ACCELERATORS if one.device == device)


def accelerator_named(name: str) -> Accelerator | None:
    return next((one for one in ACCELERATORS if one.name == name), None)


def other_card(accelerator: Accelerator, *, cloud: str, instance_type: str, memory_gib: float | None) -> str | None:
    """Why a catalog row is not the device that its name stands for; None: it is."""
    if (cloud, accelerator.name) in _OTHER_CARD:
        return _OTHER_CARD[cloud, accelerator.name]
    machine = instance_type.lower()
    if "pcie" in machine or (cloud == "lambda" and _LAMBDA_PCIE.fullmatch(machine)):
        return _PCIE
    if cloud == "azure" and machine.startswith("standard_nc"):  # its catalog gives no memory that would tell
        if accelerator.name == "H100":
            return _NVL
        if accelerator.name == "A100-80GB":
            return _PCIE
    if memory_gib is not None and abs(memory_gib / accelerator.memory_gib - 1) > MEMORY_TOLERANCE:
        return f"the catalog gives it {memory_gib:.0f} GiB, and {accelerator.device} has {accelerator.memory_gib:.0f}"
    return None


assert {one.device for one in ACCELERATORS} == set(DEVICES), "every GPU of the table has a name at SkyPilot"
