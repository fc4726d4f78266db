# SPDX-License-Identifier: Apache-2.0
"""What rounding alone may change: the bounds that a probe holds a model to, by the numbers that it computes in."""

import torch

# Largest and mean difference that any model may show. Many models take norms and softmaxes in float32 whatever their
# weights are, so float64 promises little more. In 16 bits single log-probabilities differ by rounding, and by far more
# where an expert is chosen the other way (0.47 seen on a tiny Mixtral); a leak moves the mean, rounding does not.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.1}
MEAN_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 0.05, torch.float16: 0.02}
# Deep models with large logits round more than that. Then the mean is held against what a real leak does to this
# model (0.1 to 3 nats, measured): it must stay below this share of it.
LEAK_SHARE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.03}
