# SPDX-License-Identifier: Apache-2.0
"""Where LoRA starts besides A random and B zero: from the base's own matrix (OLoRA, PiSSA).

    olora    W = Q R                 B0 = Q[:, :r]               A0 = R[:r]
    pissa    W = U S V^T             B0 = U_r sqrt(S_r / gamma)  A0 = sqrt(S_r / gamma) V_r^T

The model computes W + gamma (B A - B0 A0), so it starts as its base. The papers and PEFT take gamma B0 A0 out of the
base and train on the rest; here the base stays as it is, and the difference is one update of rank 2 r:

    B A - B0 A0 = [B - B0, B0] [A; A - A0]

What has moved is rounded on its own and not as a difference of two large numbers, so it does not vanish beside a
bfloat16 base, and before the first step the update is zero to the bit. The folder holds these two matrices: plain LoRA
of rank 2 r for the plain base. PEFT's `path_initial_model_for_weight_conversion` writes the same function, as [B, -B0]
and [A; A0].

References:
    Büyükakyüz, OLoRA, arXiv 2406.01775. Meng et al., PiSSA, arXiv 2404.02948, equations 2 to 4.
"""

from __future__ import annotations

from typing import Literal

import torch

Start = Literal[True, "gaussian", "olora", "pissa", "loftq"]  # the last by `_loftq.py`, of a quantised base
FROM_BASE = ("olora", "pissa")


@torch.no_grad()
def from_base(weight_NK: torch.Tensor, r: int, scaling: float, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 [r, K] and B0 [N, r] of a matrix, in float32 or wider.

    Args:
        weight_NK: W; may be a transposed view.
        r: At most min(N, K).
        scaling: gamma.
        kind: `olora` or `pissa`.

    Example:
        >>> a, b = from_base(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2, 0.5, "pissa")
        >>> (0.5 * b @ a).round(decimals=5)
        tensor([[3., 0., 0.],
                [0., 2., 0.],
                [0., 0., 0.]])
    """
    wide = weight_NK.to(torch.promote_types(weight_NK.dtype, torch.float32))
    if kind == "olora":
        q, rest = torch.linalg.qr(wide)
        return rest[:r].contiguous(), q[:, :r].contiguous()
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    root = (s[:r] / scaling).sqrt()
    return root[:, None] * vh[:r], u[:, :r] * root
