# SPDX-License-Identifier: Apache-2.0
"""The parts of the page, one file each: what was found -> HTML, or nothing where there is nothing to show."""
