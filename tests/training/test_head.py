"""The chunked head against the plain formula, values and gradients."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model import head, head_cpu
from trainer.model.head_cpu import load_cpu_kernel


def plain_losses(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None) -> Tensor:
    logits = x_ND @ weight_VD.to(x_ND.dtype).T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets_N, reduction="none")


def example(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x_ND = torch.randn(50, 24, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    weight_VD = (scale * torch.randn(97, 24, generator=rng, dtype=torch.float64)).to(weight_dtype).requires_grad_()
    return x_ND, weight_VD, torch.randint(0, 97, (50,), generator=rng)


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 16 * 8 * 97)  # 16 tokens: three chunks and a rest


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("softcap", [15.0, None])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
def test_loss_and_gradients_are_the_plain_formulas(dtype: torch.dtype, tolerance: float, softcap: float | None) -> None:
    x_ND, weight_VD, targets_N = example(dtype)
    ours = head.head_loss(x_ND, weight_VD, targets_N, softcap=softcap)
    plain = plain_losses(x_ND, weight_VD, targets_N, softcap).mean()
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    for one, other in zip(
        torch.autograd.grad(3 * ours, (x_ND, weight_VD)), torch.autograd.grad(3 * plain, (x_ND, weight_VD)), strict=True
    ):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("softcap", [15.0, None])
def test_gradients_pass_gradcheck(softcap: float | None) -> None:
    x_ND, weight_VD, targets_N = example(torch.float64)
    x_ND, weight_VD = x_ND[:20].detach().requires_grad_(), weight_VD[:, :].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: head.head_loss(x, w, targets_N[:20], softcap=softcap), (x_ND, weight_VD), fast_mode=True
    )


@pytest.mark.parametrize("softcap", [15.0, None])
def test_huge_logits_stay_finite(softcap: float | None) -> None:
    x_ND, weight_VD, targets_N = example(torch.float32, scale=1e4)
    loss = head.head_loss(x_ND, weight_VD, targets_N, softcap=softcap)
    loss.backward()
    assert torch.isfinite(loss)
    assert weight_VD.grad is not None
    assert torch.isfinite(weight_VD.grad).all()


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("softcap", [15.0, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_losses_of_tokens_are_the_plain_ones_and_need_no_gradient(
    dtype: torch.dtype, softcap: float | None, scale: float
) -> None:
    x_ND, weight_VD, targets_N = example(dtype, scale)
    ours = head.token_losses(x_ND, weight_VD, targets_N, softcap=softcap)
    assert not ours.requires_grad
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6  # nats; from the same logits, rounded alike
    plain = plain_losses(x_ND, weight_VD, targets_N, softcap).detach()
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


def test_the_logits_of_a_batch_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 2**24)
    biggest = 0

    def watched(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, factor: float | None) -> Tensor:
        nonlocal biggest
        biggest = max(biggest, logits_CV.nbytes)
        return head.softcap_cross_entropy_(logits_CV, targets_C, softcap, factor)

    x_ND, weight_VD = torch.randn(512, 8), torch.randn(32768, 8, requires_grad=True)
    head.head_loss(x_ND, weight_VD, torch.zeros(512, dtype=torch.int64), softcap=15.0, kernel=watched).backward()
    assert biggest == head.CHUNK_BYTES["cpu"] < 4 * 512 * 32768


@pytest.fixture(scope="module")
def cpu_kernel() -> head.HeadKernel:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler: install g++")
    return load_cpu_kernel(lambda _code, message: pytest.fail(message))


@pytest.mark.parametrize("vocab_size", [4096, 97, 7], ids=["whole vectors", "with a rest", "less than a vector"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8 + 1e-5)], ids=str)
def test_the_cpu_kernel_is_the_formula(
    cpu_kernel: head.HeadKernel, dtype: torch.dtype, tolerance: float, vocab_size: int
) -> None:
    rng = torch.Generator().manual_seed(1)
    logits_CV = (8 * torch.randn(64, vocab_size, generator=rng)).to(dtype)
    logits_CV[0, :3] = torch.tensor([1e4, -1e4, 0.0])  # far beyond the cap
    targets_C = torch.randint(0, vocab_size, (64,), generator=rng)
    exact_CV = logits_CV.double()
    loss_C = head.softcap_cross_entropy_(exact_CV, targets_C, 15.0, 1 / 64)
    ours_CV = logits_CV.clone()
    torch.testing.assert_close(cpu_kernel(ours_CV, targets_C, 15.0, 1 / 64), loss_C.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_CV.double(), exact_CV, rtol=tolerance, atol=1e-9)  # one rounding
    torch.testing.assert_close(cpu_kernel(logits_CV, targets_C, 15.0, None), loss_C.float(), rtol=1e-5, atol=1e-5)


def test_the_cpu_kernel_leaves_other_dtypes_and_plain_logits_to_the_formula(cpu_kernel: head.HeadKernel) -> None:
    targets_C = torch.zeros(4, dtype=torch.int64)
    for logits_CV, softcap in ((torch.randn(4, 8, dtype=torch.float64), 15.0), (torch.randn(4, 8), None)):
        expected_CV = logits_CV.clone()
        expected = head.softcap_cross_entropy_(expected_CV, targets_C, softcap, 0.5)
        torch.testing.assert_close(cpu_kernel(logits_CV, targets_C, softcap, 0.5), expected)
        torch.testing.assert_close(logits_CV, expected_CV)


def test_without_a_compiler_the_formula_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(head_cpu, "_library", fail)
    warnings: list[str] = []
    kernel = load_cpu_kernel(lambda code, message: warnings.append(f"{code}: {message}"))
    assert kernel is head.softcap_cross_entropy_
    assert "no C++ compiler found" in warnings[0]
    assert "Install" in warnings[0]
