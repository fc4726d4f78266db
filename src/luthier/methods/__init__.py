# SPDX-License-Identifier: Apache-2.0
"""What is trainable, one file each."""
