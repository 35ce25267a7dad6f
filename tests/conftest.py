import os

# Before torch starts its threads: idle ones of two processes at once would spin on each other's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import random

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.interpreter import patch_once_in_each_launch

    patch_once_in_each_launch()


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
