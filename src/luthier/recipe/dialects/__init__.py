# SPDX-License-Identifier: Apache-2.0
"""Other tools' recipes, one file each: how their keys are told, and what each of them is here."""
