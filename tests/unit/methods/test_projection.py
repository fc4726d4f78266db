# SPDX-License-Identifier: Apache-2.0
"""Bases of gradients: the range finder against the SVD, random numbers by their words, and lengths that are kept."""

from __future__ import annotations

import pytest
import torch

from luthier.methods._projection import by_range_finder, by_svd, drawn_at_random, generator_of


def matrix(rows, columns, decay):
    """Singular values that fall by a power of their number, as those of gradients do."""
    draw = torch.Generator().manual_seed(rows)
    small = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, small, generator=draw, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, small, generator=draw, dtype=torch.float64))
    return left * torch.arange(1, small + 1, dtype=torch.float64) ** -decay @ right.T


@pytest.mark.parametrize("shape", [(96, 160), (160, 96), (64, 64)])
@pytest.mark.parametrize(("decay", "most"), [(0.5, 0.025), (1.0, 0.003), (2.0, 1e-5)])
def test_the_range_finder_takes_nearly_what_the_svd_takes(shape, decay, most):
    """Of the energy (squares) that the best subspace has, at most this share is missed; slow decays are the hardest."""
    g = matrix(*shape, decay)
    best, found = by_svd(g, 16), by_range_finder(g, 16, generator_of(g.device, 1))
    assert found.shape == best.shape == (shape[0], 16)
    assert (found.T @ found - torch.eye(16)).abs().max() < 1e-12
    energy = [float((basis.T @ g).square().sum()) for basis in (best, found)]
    assert 0 <= 1 - energy[1] / energy[0] < most


def test_columns_stand_in_the_order_of_their_singular_values():
    g = matrix(96, 160, 1.0)
    found = by_range_finder(g, 8, generator_of(g.device, 1))
    assert (found.T @ by_svd(g, 8)).diagonal().abs().min() > 0.9


def test_a_whole_basis_loses_nothing():
    g = matrix(12, 30, 0.5)
    basis = by_range_finder(g, 12, generator_of(g.device, 1))
    assert (basis @ (basis.T @ g) - g).abs().max() < 1e-12


def test_zeros_have_a_basis_too():
    """A head of experts that no token reached."""
    basis = by_range_finder(torch.zeros(6, 9), 3, generator_of(torch.device("cpu"), 1))
    assert basis.isfinite().all()


def test_right_vectors_are_those_of_the_matrix_itself():
    g = matrix(20, 12, 1.0)
    left, right = by_svd(g, 12), by_svd(g, 12, right=True)
    inside = left.T @ g @ right.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-12
    assert (inside.diagonal() > 0).all(), "signs belong together"


def test_random_numbers_are_a_function_of_their_words():
    device, like = torch.device("cpu"), torch.zeros(1)
    first, again, other = (drawn_at_random(50, 8, like, generator_of(device, 3, at)) for at in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(first.square().sum()) / 50 - 1) < 0.15, "a row's length is 1 on average"
