# SPDX-License-Identifier: Apache-2.0
"""Chat templates for models that bring none, one file each."""
