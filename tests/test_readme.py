"""Every Python block of the README runs as it stands."""

import os
import re
from pathlib import Path

import pytest

# In the wheel's test run this folder is a copy, and the repository is where DYNFOCUS_SOURCE says.
README = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[1])) / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {})
