# SPDX-License-Identifier: Apache-2.0
"""The words and errors every other folder shares. No torch here."""
