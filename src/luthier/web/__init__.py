# SPDX-License-Identifier: Apache-2.0
"""Study results, as plain data, to pictures. No dependency, no script, no network."""
