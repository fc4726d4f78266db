# SPDX-License-Identifier: Apache-2.0
"""Fast functions, each beside the plain function that it must equal."""
