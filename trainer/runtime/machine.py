"""What this process runs on: device, dtype, compilation, allocator and the peak that MFU is counted against."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.contract.devices import describe_cpu, peak_flops
from trainer.contract.exits import BadSpec, first_line
from trainer.contract.files import compiled_folder
from trainer.contract.spec import TrainSpec
from trainer.model.head import HeadKernel, softcap_cross_entropy_
from trainer.model.head_cpu import load_cpu_kernel
from trainer.runtime.head_choice import load_cuda_kernel
from trainer.runtime.measure import measure_cpu_peak

CPU_PEAK_BUDGET_S = 0.4
FP8_CAPABILITY = (8, 9)  # Ada; Hopper is 9.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@dataclass(frozen=True, kw_only=True)
class Machine:
    device: torch.device
    device_name: str
    dtype: torch.dtype
    compile: bool
    peak_flops: float | None  # None: unknown device, so no MFU
    head_kernel: HeadKernel = softcap_cross_entropy_

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def has_cpu_kernel(self) -> bool:
        return not self.is_cuda and self.head_kernel is not softcap_cross_entropy_

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def peak_memory_bytes(self) -> int:
        if self.is_cuda:
            return torch.cuda.max_memory_allocated()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def reached_flops_share(self, flops: float, seconds: float) -> float | None:
        """MFU: the share of the peak that went into the model's arithmetic."""
        return flops / seconds / self.peak_flops if self.peak_flops and seconds > 0 else None


def find_machine(spec: TrainSpec, warn: Callable[[str, str], None], *, with_peak: bool = True) -> Machine:
    """The machine as the spec wants it. Raises BadSpec for a device that is not here."""
    has_cuda = torch.cuda.is_available()
    if spec.device == "cuda" and not has_cuda:
        raise BadSpec("device: 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu', or run on a GPU machine")
    on_cuda = has_cuda and spec.device != "cpu"
    device = torch.device("cuda" if on_cuda else "cpu")
    if spec.dtype == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_cuda else cpu_has_bf16()
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = getattr(torch, spec.dtype)
    name = str(dtype).removeprefix("torch.")
    if spec.fp8:
        _check_fp8(device, dtype, warn)
    if on_cuda:
        torch.set_float32_matmul_precision("high")
        device_name = torch.cuda.get_device_name(0)
        peak = peak_flops(device_name, name)
    else:
        keep_freed_memory()
        device_name = describe_cpu()["model"]
        peak = measure_cpu_peak(name, budget_s=CPU_PEAK_BUDGET_S) if with_peak else None
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled_folder())
    compile = (on_cuda if spec.compile is None else spec.compile) and can_compile(device, warn)
    kernel = load_cuda_kernel(device, dtype, compile, warn) if on_cuda else load_cpu_kernel(warn)
    return Machine(
        device=device,
        device_name=device_name,
        dtype=dtype,
        compile=compile,
        peak_flops=peak,
        head_kernel=kernel,
    )


def _check_fp8(device: torch.device, dtype: torch.dtype, warn: Callable[[str, str], None]) -> None:
    if dtype != torch.bfloat16:
        raise BadSpec(f"fp8: its products give bfloat16, and this machine's dtype is {dtype}; set dtype to bfloat16")
    if device.type == "cpu":
        warn("fp8_emulated", "fp8 on a CPU shows what it costs in loss; it is slower than bfloat16 here")
    elif torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise BadSpec(f"fp8: {name} has no fp8 products (Ada, Hopper and later cards do); leave fp8 out")


def cpu_has_bf16() -> bool:
    """Whether bf16 products are native; elsewhere they are emulated and slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def keep_freed_memory() -> bool:
    """Stop glibc from giving large blocks back to the kernel after each use; False where it is not glibc.

    A step frees and takes hundreds of megabytes. By default each time is an mmap and a page fault for every 4 KiB.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def can_compile(device: torch.device, warn: Callable[[str, str], None]) -> bool:
    """Try torch.compile on one line. A machine without a C++ compiler (or Triton) trains eagerly, with a warning."""
    start = time.perf_counter()
    try:
        compiled = torch.compile(lambda x: torch.sin(x) * 2, dynamic=False)
        compiled(torch.ones(64, device=device))
    except Exception as error:  # any failure of a compiler stack means the same: go on without it
        warn(
            "compile_unavailable",
            f"torch.compile does not work here ({first_line(error)}; {time.perf_counter() - start:.1f} s); training "
            "eagerly, which is slower. Install a C++ compiler such as g++, or set compile to false",
        )
        return False
    return True
