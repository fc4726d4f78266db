# SPDX-License-Identifier: Apache-2.0
"""The loop: micro-batches to gradients to updates to checkpoints. It knows methods and objectives as protocols only."""
