# SPDX-License-Identifier: Apache-2.0
"""Charts as hand-written SVG: plain data in, text out."""
