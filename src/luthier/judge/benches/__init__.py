# SPDX-License-Identifier: Apache-2.0
"""Kinds of benches, one file each: the files of such a folder, what the judge is asked, and how its reply is read."""
