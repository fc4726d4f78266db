# SPDX-License-Identifier: Apache-2.0
"""How good predictions are, as pure functions of numpy arrays and texts, in float64. One file a metric."""
