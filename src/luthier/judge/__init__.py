# SPDX-License-Identifier: Apache-2.0
"""A language model judges answers: MT-bench and BELLE, over OpenAI's protocol. No torch here."""
