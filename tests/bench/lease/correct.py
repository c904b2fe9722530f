"""Whether a GPU computes what the formulas say: the head's kernels, the whole model, and ours against upstream."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tests.bench.jobs import checkout_problem
from tests.bench.lease.setting import Report, Setting, Skip
from trainer.contract.recipe import Recipe, make_recipe
from trainer.model.attention_kernels import candidates
from trainer.model.gpt import Model, build_model, param_group
from trainer.model.head import HeadKernel, head_loss, softcap_cross_entropy_
from trainer.runtime.attention_choice import choose_attention
from trainer.runtime.head_choice import load_cuda_kernel

# largest relative error of loss and gradients, against float32 on the CPU: products in other orders; bfloat16
LOSS_ERROR = {"float32": 1e-5, "bfloat16": 5e-3, "fp8": 1e-2}
GRADIENT_ERROR = {"float32": 1e-3, "bfloat16": 6e-2, "fp8": 0.25}
ZEROS_BECOME = 0.02  # projections begin as zeros, behind which no gradient would show an error


def kernels(setting: Setting, report: Report) -> None:
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("triton.language") is None:
        raise Skip("triton is not installed: uv pip install triton (Linux on x86_64)")
    from tests.bench.lease.kernels import head_errors
    from trainer.model.head_triton import triton_kernel

    cases = head_errors(triton_kernel, setting.device)
    report(ok=all(case["ok"] for case in cases), head=cases)


def attention(setting: Setting, report: Report) -> None:
    """Every kernel for every kind of layer: its seconds here, or why it is not to be had. What is found is kept."""
    job = setting.job()
    recipe = make_recipe(job.depth, sequence_len=job.sequence_len, vocab_size=job.vocab_size, window_pattern="SL")
    if setting.smoke:
        names = {window: candidates(window, recipe.sequence_len) for window in set(recipe.windows)}
        report(candidates=names)
        raise Skip("attention kernels are chosen on a GPU only")
    found = choose_attention(recipe, torch.device("cuda"), getattr(torch, job.dtype), job.device_batch_size or 8)
    report(chosen={window: asdict(choice) for window, choice in found.items()})


def model(setting: Setting, report: Report) -> None:
    """Loss and gradients of one model on this device, in each dtype, as it trains there, against float32 on the CPU."""
    sequence_len = 256 if setting.smoke else 2048
    recipe = make_recipe(1 if setting.smoke else 4, sequence_len=sequence_len, vocab_size=512, window_pattern="SSSL")
    tokens_BT = torch.randint(0, 512, (2, sequence_len + 1), generator=torch.Generator().manual_seed(1))
    reference = example_model(recipe, torch.device("cpu"), torch.float32)
    exact = loss_and_gradients(reference, reference, tokens_BT, softcap_cross_entropy_)
    device = torch.device(setting.device)
    found: dict[str, Any] = {}
    for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True), ("fp8", True)):
        dtype = "bfloat16" if precision == "fp8" else precision
        compiled = compiled and not setting.smoke
        torch.set_float32_matmul_precision("highest")
        chosen = choose_attention(recipe, device, getattr(torch, dtype), 2) if compiled else {}
        names = {window: choice.name for window, choice in chosen.items()}
        ours = example_model(recipe, device, getattr(torch, dtype), names, fp8=precision == "fp8")
        ours.load_state_dict(reference.state_dict())
        forward = torch.compile(ours, dynamic=False) if compiled else ours
        kernel = head_kernel(device, getattr(torch, dtype), compiled)
        name = f"{precision}{' compiled' if compiled else ''}"
        found[name] = compare(exact, loss_and_gradients(ours, forward, tokens_BT, kernel), precision)
        report(ok=all(row["ok"] for row in found.values()), against_cpu_float32=found)


def upstream_equal(setting: Setting, report: Report) -> None:
    """One loss and its gradients, ours and upstream's, from equal weights and tokens."""
    problem = checkout_problem(setting.vs)
    if problem:
        raise Skip(problem)
    from tests.bench.sides import start_upstream
    from tests.bench.upstream import upstream_name

    job = setting.job(depth=4, window_pattern="L", side="upstream", checkout=str(setting.vs), vocab_size=512)
    theirs = start_upstream(job, 100)
    recipe = make_recipe(job.depth, sequence_len=job.sequence_len, vocab_size=512, window_pattern="L")
    ours = example_model(recipe, theirs.device, getattr(torch, job.dtype))
    theirs.take_weights(dict(ours.named_parameters()))
    tokens_BT = torch.randint(0, 512, (2, job.sequence_len + 1), generator=torch.Generator().manual_seed(1))
    mine = loss_and_gradients(ours, ours, tokens_BT, head_kernel(theirs.device, getattr(torch, job.dtype), False))
    inputs_BT, targets_BT = (part.contiguous().to(theirs.device) for part in (tokens_BT[:, :-1], tokens_BT[:, 1:]))
    loss = theirs.plain_model(inputs_BT, targets_BT)
    loss.backward()
    gradients = {name: param.grad for name, param in theirs.plain_model.named_parameters()}
    named = {name: gradients[upstream_name(name)] for name in mine[1]}
    report(dtype=job.dtype, **compare((float(loss.detach()), named), mine, job.dtype))


def example_model(
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    attention: Mapping[int, str | None] | None = None,
    *,
    fp8: bool = False,
) -> Model:
    model = build_model(recipe, device=device, compute_dtype=dtype, seed=0, attention=attention, fp8=fp8)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim > 1 and not param.any():
                param.copy_(ZEROS_BECOME * torch.randn(param.shape, generator=rng))
    return model


def head_kernel(device: torch.device, dtype: torch.dtype, compiled: bool) -> HeadKernel:
    if device.type != "cuda":
        return softcap_cross_entropy_
    return load_cuda_kernel(device, dtype, compiled, lambda code, message: print(f"{code}: {message}"))


def loss_and_gradients(
    model: Model, forward: Callable[[Tensor], Tensor], tokens_BT: Tensor, kernel: HeadKernel
) -> tuple[float, dict[str, Tensor | None]]:
    weight = model.lm_head.weight
    tokens_BT = tokens_BT.to(weight.device)
    x_ND = forward(tokens_BT[:, :-1].contiguous()).flatten(0, 1)
    loss = head_loss(x_ND, weight, tokens_BT[:, 1:].flatten(), softcap=model.softcap, kernel=kernel)
    loss.backward()
    return float(loss.detach()), {name: param.grad for name, param in model.named_parameters()}


def compare(
    exact: tuple[float, dict[str, Tensor | None]], found: tuple[float, dict[str, Tensor | None]], dtype: str
) -> dict[str, Any]:
    """Relative error of the loss, and of the gradients of each group of parameters together."""
    squares: dict[str, list[float]] = {}
    for name, right in exact[1].items():
        got = found[1][name]
        if right is None or got is None:
            assert right is got, f"only one side has a gradient of {name}"
            continue
        difference = got.detach().cpu().double() - right.detach().cpu().double()
        sums = squares.setdefault(param_group(name), [0.0, 0.0])
        sums[0] += float(difference.square().sum())
        sums[1] += float(right.detach().double().square().sum())
    gradient_errors = {group: (wrong / whole) ** 0.5 if whole else wrong for group, (wrong, whole) in squares.items()}
    loss_error = abs(found[0] - exact[0]) / abs(exact[0])
    good = loss_error < LOSS_ERROR[dtype] and all(error < GRADIENT_ERROR[dtype] for error in gradient_errors.values())
    return {"ok": good, "loss": found[0], "loss_error": loss_error, "gradient_errors": gradient_errors}
