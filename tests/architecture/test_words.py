# SPDX-License-Identifier: Apache-2.0
"""Nothing in the repository names a machine, a package registry's host or a tool that only its authors have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Written with a bar, so that this file passes its own test.
HOSTS = ["py|pi.org", "python|hosted.org", "registry.npm|js.org", "deb.deb|ian.org", "download.py|torch.org"]
PRIVATE = [".lib|rary/", "shared/ref|erence/", "shared/ho|oks/", "before-|stop"]
PATHS = [r"(?<![\w.~/-])/(?:wo#rk|ro#ot)/", r"/opt/(?:wh#eels|py#pi)"]
FORBIDDEN = re.compile(
    "|".join([re.escape(word.replace("|", "")) for word in HOSTS + PRIVATE] + [path.replace("#", "") for path in PATHS])
)


def _tracked() -> list[Path]:
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_and_no_registry_is_named():
    found = []
    for file in _tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        for number, line in enumerate(text.splitlines(), 1):
            if hit := FORBIDDEN.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {hit.group()}")
    assert found == []


@pytest.mark.parametrize(
    "line", ["see /wo|rk/main/x", "'/ro|ot/.cache'", "https://py|pi.org/simple", "see shared/ref|erence/x.md"]
)
def test_the_pattern_finds(line):
    assert FORBIDDEN.search(line.replace("|", ""))


@pytest.mark.parametrize("line", ["a/wo|rk/b", "frame/ro|ot/x", "the root/of", "pip install luthier", "~/wo|rk/x"])
def test_the_pattern_leaves_alone(line):
    assert not FORBIDDEN.search(line.replace("|", ""))
