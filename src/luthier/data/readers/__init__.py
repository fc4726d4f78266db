# SPDX-License-Identifier: Apache-2.0
"""Files of rows, read one row at a time: memory does not grow with the file.

Every reader yields ``(number, row)``: the number a user finds the row by (a line, or the place in an array, from 1) and
the row, or the fault that stands in its place.
"""
