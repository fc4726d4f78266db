# SPDX-License-Identifier: Apache-2.0
"""Kinds of suites, one file each: how items are read, what a model is asked, and how what it says is judged."""
