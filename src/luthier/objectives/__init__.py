# SPDX-License-Identifier: Apache-2.0
"""What is minimised, one file each."""
