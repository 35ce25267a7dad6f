"""The connector as a CUDA graph needs it: no number is read from the device, and none is copied to it."""

import pytest
import torch

from dynfocus.connector import ConnectorSettings, DynFocusConnector, frame_rows
from tests.device_only import device_only

OPTIONS = [
    {},
    {"temporal_scale": "channels", "scorer": "predictor_lg"},
    {"spatial_group": "tree", "spatial_gate": "softmax"},
    {"rods_source": "patches", "share_projector": True, "selection_gradient": "diagonal"},
    {"cones": "average", "selection": "uniform"},
    {"cones": "none", "selection": "random", "antithetic": True},
    {"selection": "random"},
    {"rods": False, "selection_gradient": "none"},
]


def run(mode: str, options: dict) -> torch.Tensor:
    settings = ConnectorSettings(num_events=6, pool_size=2, spatial_levels=((4, 3), (2, 2)), **options)
    lengths = [12, 1, 12, 7]
    plans = [settings.plan(length) for length in lengths]
    with torch.device("meta"):
        connector = DynFocusConnector(24, 12, 20, settings).train(mode == "train")
        patches, text = torch.randn(sum(lengths), 16, 24, requires_grad=True), torch.randn(4, 5, 12)
        text_mask = torch.ones(4, 5, dtype=torch.bool)
    with device_only():
        rows = frame_rows(lengths, patches.device)
        output = connector(patches, plans, text, rows, text_mask, output_attention=settings.rods)
        output.tokens.sum().backward()
    return output.tokens


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_connector_neither_waits_for_the_device_nor_copies_to_it(mode, options):
    assert run(mode, options).is_meta


def test_k_means_does_wait():
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        run("eval", {"temporal": "kmeans"})


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x.cpu(),
        lambda x: torch.arange(2).to(x.device),
    ],
)
def test_what_waits_is_found(waits):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), device_only():
        waits(torch.ones(3, device="meta"))
