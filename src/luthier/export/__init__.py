# SPDX-License-Identifier: Apache-2.0
"""Results as others read them: PEFT folders, merged models; each export proves what it wrote."""
