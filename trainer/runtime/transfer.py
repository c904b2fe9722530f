"""How tensors and memory get to a GPU without anybody waiting."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def use_expandable_segments(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let CUDA's allocator grow what it has instead of keeping blocks that fit nothing. Before torch is imported.

    A setting that somebody gave stands.
    """
    if not any(environ.get(name) for name in ALLOCATOR_SETTINGS):
        environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To a GPU from pinned memory: a copy from any other waits until the GPU has caught up.

    So the processor is free to read the next batch while this one is trained on; no thread has to do it.
    """
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
