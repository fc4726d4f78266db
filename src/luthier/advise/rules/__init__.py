# SPDX-License-Identifier: Apache-2.0
"""From facts to values, one file a group of keys: `advise(facts, chosen)`, where `chosen` holds what came before."""

from luthier.advise.rules import batch, length, method, numbers, objective, rate, schedule

# Each group may read what the ones before it advised.
ORDER = (numbers, objective, length, method, rate, batch, schedule)
