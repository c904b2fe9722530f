"""The head's kernel for CPUs: compiles head_cpu.cpp once per machine and torch, then loads it from the cache.

Without a C++ compiler the formula of trainer.model.head does the same, more slowly.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainer.contract.exits import first_line
from trainer.contract.files import compiled_folder, is_own
from trainer.model.head import HeadKernel, softcap_cross_entropy_

_SOURCE = Path(__file__).with_suffix(".cpp")


def load_cpu_kernel(warn: Callable[[str, str], None]) -> HeadKernel:
    """The compiled kernel, or trainer.model.head's own formula where it cannot be compiled: `warn` is told why."""
    try:
        library = ctypes.CDLL(str(_library()))
    except Exception as error:  # no compiler, one that fails, a noexec cache: all mean that the formula does it
        warn(
            "no_cpu_kernel",
            f"the head's C++ kernel cannot be compiled here ({first_line(error)}): training takes longer. Install a "
            "C++ compiler such as g++",
        )
        return softcap_cross_entropy_
    pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    functions = {}
    for dtype in (torch.bfloat16, torch.float32):
        function = getattr(library, f"softcap_cross_entropy_{str(dtype).removeprefix('torch.')}")
        function.argtypes = [pointer, pointer, pointer, size, size, real, real]
        function.restype = None
        functions[dtype] = function

    def kernel(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None) -> Tensor:
        function = functions.get(logits_CV.dtype)
        if softcap is None or function is None:
            return softcap_cross_entropy_(logits_CV, targets_C, softcap, factor)
        assert logits_CV.is_contiguous(), logits_CV.stride()
        rows, columns = logits_CV.shape
        targets_C = targets_C.contiguous()
        loss_C = torch.empty(rows)
        pointers = (t.data_ptr() for t in (logits_CV, targets_C, loss_C))
        function(*pointers, rows, columns, softcap, factor or 0.0)
        return loss_C

    return kernel


def _library() -> Path:
    """The compiled library. Importing torch's build tools takes seconds, so that only the first start does."""
    source = _SOURCE.read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join((source, torch.__version__, _instruction_sets())).encode()).hexdigest()[:16]
    path = compiled_folder() / f"head-{key}.so"
    if not is_own(path):
        from torch._inductor.codecache import CppCodeCache  # it knows the flags, and which OpenMP torch itself uses

        # a newer torch looks whether the source needs vector instructions, an older one always allows them
        asked = inspect.signature(CppCodeCache.load_async).parameters
        built = CppCodeCache.load(source, **({"needs_vec_isa": True} if "needs_vec_isa" in asked else {}))
        temporary = path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(built._name, temporary)
        temporary.chmod(0o700)
        temporary.replace(path)
    return path


def _instruction_sets() -> str:
    """A home folder may be shared by machines with different processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
