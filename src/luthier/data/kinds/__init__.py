# SPDX-License-Identifier: Apache-2.0
"""Kinds of rows, one file each: how examples of that kind become tokens and what is true of them."""
