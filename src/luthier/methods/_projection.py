# SPDX-License-Identifier: Apache-2.0
"""Small bases of large gradients: by SVD, by a randomised range finder, or drawn at random.

    G [m, n] ~ left (left^T G right^T) right        left [m, r] has orthonormal columns, right [r, n] rows

References:
    Halko, Martinsson and Tropp, Finding Structure with Randomness, arXiv 0909.4061, algorithms 4.4 and 5.1.
"""

from __future__ import annotations

import numpy as np
import torch

OVERSAMPLING = 8  # columns that are drawn besides: section 4.2 of the paper says 5 to 10


def generator_of(device: torch.device, *words: int) -> torch.Generator:
    """Random numbers that are a function of these words alone, so that every rank and a resumed run draw the same."""
    drawn = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(drawn[0]))


def by_svd(gradient: torch.Tensor, rank: int, *, right: bool = False) -> torch.Tensor:
    """The leading left singular vectors [m, r], or the right ones [r, n].

    A transposed matrix would have other signs, and moments that are kept across projections depend on them.
    """
    left, _, rows = torch.linalg.svd(gradient, full_matrices=False)
    return (rows[:rank] if right else left[:, :rank]).contiguous()


def by_range_finder(gradient: torch.Tensor, rank: int, generator: torch.Generator) -> torch.Tensor:
    """Nearly the leading left singular vectors, [m, r], in the order of their singular values.

    The range of G G^T G applied to random numbers (one power step), made orthonormal by QR after each product, and in
    it the eigenvectors of the small matrix of products. Four products of m n r, where an SVD takes many times m^2 n.

    Args:
        gradient: G [m, n].
        rank: r, at most the smaller side.
        generator: On the gradient's device.

    Reference:
        Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 (q = 1) and 5.1.
    """
    columns = min(rank + OVERSAMPLING, *gradient.shape)
    drawn = torch.randn(gradient.shape[1], columns, dtype=gradient.dtype, device=gradient.device, generator=generator)
    basis, _ = torch.linalg.qr(gradient @ drawn)
    across, _ = torch.linalg.qr(gradient.T @ basis)
    basis, _ = torch.linalg.qr(gradient @ across)
    inside = basis.T @ gradient
    _, vectors = torch.linalg.eigh(inside @ inside.T)  # in rising order
    return (basis @ vectors.flip(-1)[:, :rank]).contiguous()


def drawn_at_random(rows: int, rank: int, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Independent normal numbers of variance 1 / r, [rows, r]: lengths are kept on average (Johnson, Lindenstrauss)."""
    drawn = torch.randn(rows, rank, dtype=like.dtype, device=like.device, generator=generator)
    return drawn.mul_(rank**-0.5)
