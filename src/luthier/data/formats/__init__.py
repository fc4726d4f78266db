# SPDX-License-Identifier: Apache-2.0
"""Data formats, one file each: how a row's columns become an example."""
