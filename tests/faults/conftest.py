# SPDX-License-Identifier: Apache-2.0
"""Every test in this folder breaks something; `command` is the command line in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs import Command


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")


@pytest.fixture
def command(capsys):
    """Run a command; give back its exit code, stdout and stderr."""
    return Command(capsys)
