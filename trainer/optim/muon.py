"""Muon's update for a stack of equal matrices: momentum, orthogonalisation, per-row scale, cautious decay.

Sources: Muon (kellerjordan.github.io/posts/muon), Polar Express (arXiv 2505.16932), NorMuon (arXiv 2510.05491), row
equilibration (MuonEq, arXiv 2603.28254), norm correction (Muon+, arXiv 2602.21545), cautious decay (arXiv 2411.16085).

Shapes: K matrices of R rows and C columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

# five quintic steps for spectra in [~1e-3, 1], with 2 % safety (arXiv 2505.16932)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def frobenius_norm(x_KRC: Tensor) -> Tensor:
    return x_KRC.float().square().sum(dim=(-2, -1), keepdim=True).sqrt()


def equilibrate_rows(x_KRC: Tensor) -> Tensor:
    """Give every row the same norm and keep the whole norm, so that small rows aren't lost in the iteration."""
    row_norm_KR1 = x_KRC.float().square().sum(dim=-1, keepdim=True).sqrt().clamp_min(1e-6)
    mean_norm_K11: Tensor = frobenius_norm(x_KRC) / x_KRC.size(-2) ** 0.5
    return x_KRC * (mean_norm_K11 / row_norm_KR1).to(x_KRC.dtype)


def orthogonalize(x_KRC: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: all singular values end near one."""
    x_KRC = x_KRC / (frobenius_norm(x_KRC) * 1.01 + 1e-6).to(x_KRC.dtype)
    tall = x_KRC.size(-2) > x_KRC.size(-1)
    x = x_KRC.mT if tall else x_KRC  # so that the square products are of the short side
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def muon_update(
    params_KRC: Tensor,
    grads_KRC: Tensor,
    momentum_KRC: Tensor,
    second_moment: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
    beta2: float,
    orthogonal_dtype: torch.dtype,
) -> None:
    """Update parameters and both buffers in place. The second moment is K R 1 for tall or square matrices, or K 1 C."""
    rows, columns = params_KRC.shape[-2:]
    momentum_KRC.lerp_(grads_KRC, 1 - momentum)
    nesterov_KRC = grads_KRC.lerp(momentum_KRC, momentum)

    update_KRC = orthogonalize(equilibrate_rows(nesterov_KRC.to(orthogonal_dtype))).to(params_KRC.dtype)
    update_KRC = update_KRC * (min(rows, columns) ** 0.5 / frobenius_norm(update_KRC).clamp_min(1e-6))

    # NorMuon: even out rows (or columns) by their running mean square, keeping the whole norm
    reduced, reduced_size = (-1, columns) if rows >= columns else (-2, rows)
    mean_square = update_KRC.square().mean(dim=reduced, keepdim=True)
    second_moment.lerp_(mean_square, 1 - beta2)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    norm_before = (mean_square.sum(dim=(-2, -1), keepdim=True) * reduced_size).sqrt()
    norm_after = ((mean_square * scale.square()).sum(dim=(-2, -1), keepdim=True) * reduced_size).sqrt()
    update_KRC = update_KRC * (scale * (norm_before / norm_after.clamp_min(1e-10)))

    decays = update_KRC * params_KRC >= 0  # decay only what the update shrinks anyway
    lr = lr * max(1.0, rows / columns) ** 0.5
    params_KRC.sub_(lr * (update_KRC + weight_decay * params_KRC * decays))
