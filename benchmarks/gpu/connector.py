"""Stage 5: the connector (DPE and CCE) eager and as one CUDA graph, beside the vision tower that it follows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.races import TINY, Sizes
from benchmarks.gpu.stage import Stage
from benchmarks.gpu.timing import captured, measure, number_of_sets, peak_bytes
from dynfocus.connector import ConnectorSettings, DynFocusConnector, frame_rows

TEXT_CHANNELS = 768
SCENE = 40  # frames
FRAMES = (64, 1000)
CHUNK = 64  # frames that pass the tower at once


def run(stage: Stage) -> None:
    sizes = TINY if stage.rehearsed else Sizes()
    frames = (8,) if stage.rehearsed else FRAMES
    for T in frames:
        with stage.failure_is_a_row("connector", frames=T):
            add_connector(stage, sizes, T)
    if stage.enough_time("vision tower", 15):
        with stage.failure_is_a_row("vision tower"):
            add_tower(stage, frames)


def add_connector(stage: Stage, sizes: Sizes, T: int) -> None:
    calls, patches = connector_calls(sizes, T, stage.device)
    eager = measure(calls, stage.device, graph=False)
    peak = peak_bytes(calls[0], stage.device)
    stage.add("connector", "measured", how_run="eager", frames=T, peak_bytes=peak, **eager.row)
    with stage.failure_is_a_row("connector graph equals eager", frames=T):
        check_graph(stage, calls[0], patches, T)
    stage.add("connector", "measured", how_run="one graph", frames=T, **measure(calls, stage.device).row)


def check_graph(stage: Stage, call: Callable[[], Tensor], patches: Tensor, T: int) -> None:
    """No synchronising call; and captured once, replayed on other patches, the bits that eager gives."""
    before = call().clone()
    waits_for_nothing(call, stage.device)
    graph = captured(call) if stage.device == "cuda" else None
    patches.copy_(patches.flip(1))
    if graph is not None:
        graph.replay()
    replayed = call() if graph is None else graph.result.clone()  # type: ignore[attr-defined]
    same, moved = torch.equal(replayed, call()), not torch.equal(replayed, before)
    if same and moved:
        stage.add("connector graph equals eager", "passed", frames=T)
    else:
        why = f"equal to eager: {same}, other than before: {moved}"
        stage.add("connector graph equals eager", "failed", frames=T, why=why)


def connector_calls(sizes: Sizes, T: int, device: str) -> tuple[list[Callable[[], Tensor]], Tensor]:
    """Forward passes over videos that no cache holds, and the patches of the first."""
    settings = ConnectorSettings(
        num_events=sizes.events, pool_size=2 if sizes is TINY else 4, spatial_levels=sizes.levels
    )
    side = round(sizes.patches**0.5)
    torch.manual_seed(0)
    with torch.device(device):
        connector = DynFocusConnector(sizes.channels, TEXT_CHANNELS, sizes.hidden, settings).eval().bfloat16()
        text = torch.randn(1, sizes.queries, TEXT_CHANNELS).bfloat16()
        rows = frame_rows([T], torch.device(device))
        first = video(T, side * side, sizes.channels).bfloat16()
        videos = [first] + [first.flip(0) for _ in range(number_of_sets(first.nbytes, device) - 1)]
    plans = [settings.plan(T, budget=2 * T + settings.fine_tokens * sizes.key_frames)]

    def call(patches: Tensor) -> Tensor:
        with torch.no_grad():
            tokens: Tensor = connector(patches, plans, text, rows).tokens
            return tokens

    return [partial(call, patches) for patches in videos], first


def video(T: int, patches: int, channels: int) -> Tensor:
    """Patches [T, N, C] of scenes one after the other, on the default device: a scene keeps its objects."""
    x = torch.randn(T, patches, channels).mul_(0.5)
    for scene in x.split(SCENE):
        scene += torch.randn(16, channels)[torch.randint(16, (patches,))]
    return x


def waits_for_nothing(call: Callable[[], Any], device: str) -> None:
    if device != "cuda":
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def add_tower(stage: Stage, frames: tuple[int, ...]) -> None:
    """EVA ViT-g/14 with random weights, in bf16, by chunks of frames as the model runs it."""
    from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = InstructBlipVisionConfig(**small) if stage.rehearsed else InstructBlipVisionConfig()
    with torch.device(stage.device):
        tower = InstructBlipVisionModel._from_config(config, dtype=torch.bfloat16).eval()
        pixels = torch.randn(2 if stage.rehearsed else CHUNK, 3, config.image_size, config.image_size).bfloat16()

    def call() -> Any:
        with torch.no_grad():
            return tower(pixel_values=pixels).last_hidden_state

    timing = measure([call], stage.device, graph=False)
    for T in frames:
        scaled = {name: round(timing.row[name] * T / len(pixels), 1) for name in ("median_us", "again_us")}
        stage.add("vision tower", "measured", frames=T, layers=config.num_hidden_layers, **{**timing.row, **scaled})
