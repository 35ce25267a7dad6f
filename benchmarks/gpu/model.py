"""Stage 6: the full-size model with random weights: three steps of training stage 1, and one answer."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.stage import Stage

FRAMES = 64
TEXT_TOKENS = 64
NEW_TOKENS = 32
NEEDED = (5, 23)  # of transformers


def run(stage: Stage) -> None:
    import transformers

    found = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if found < NEEDED:
        stage.add(
            "model",
            "skipped",
            why=f"transformers is {transformers.__version__}, the model needs {'.'.join(map(str, NEEDED))}: "
            "carry its wheel alone in a folder and name that with --wheels (make gpu WHEELS=…)",
        )
        return
    if not stage.enough_time("model", 1 if stage.rehearsed else 25):
        return
    start = time.perf_counter()
    model = build(stage)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = round(time.perf_counter() - start, 2)
    stage.add(
        "build the model", "measured", seconds=seconds, parameters=parameters, transformers=transformers.__version__
    )
    inputs = question(model, 6 if stage.rehearsed else FRAMES, stage.device)
    with stage.failure_is_a_row("generate"):
        generate(stage, model, inputs)
    with stage.failure_is_a_row("train"):
        train(stage, model, inputs)


def build(stage: Stage) -> Any:
    """In bf16, on the device at once."""
    from dynfocus import DynFocusConfig, DynFocusForConditionalGeneration

    if stage.rehearsed:
        from tests.model import tiny

        config = tiny.config()
    else:
        config = DynFocusConfig(text_config={"model_type": "llama", "vocab_size": 32064})
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(stage.device):
            return DynFocusForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def question(model: Any, frames: int, device: str) -> dict[str, Tensor]:
    """What the processor would give of one video and a question about it."""
    config = model.config
    plan = model.connector.settings.plan(frames)
    size = config.vision_config.image_size
    words = 3 + torch.randint(20, (TEXT_TOKENS,), device=device)
    placeholders = torch.full((plan.num_tokens,), config.video_token_id, device=device)
    input_ids = torch.cat((words[:5], placeholders, words[5:]))[None]
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values_videos": torch.randn(frames, 3, size, size, device=device).bfloat16(),
        "num_frames": torch.tensor([frames], device=device),
        "qformer_input_ids": words[None, :16],
        "qformer_attention_mask": torch.ones(1, 16, dtype=torch.int64, device=device),
    }


def generate(stage: Stage, model: Any, inputs: dict[str, Tensor]) -> None:
    new = 2 if stage.rehearsed else NEW_TOKENS

    def answer() -> Tensor:
        with torch.no_grad():
            ids: Tensor = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
            return ids

    answer()
    ids, seconds, peak = once(answer, stage.device)
    made = ids.shape[1] - inputs["input_ids"].shape[1]
    stage.add(
        "generate", "measured", seconds=seconds, new_tokens=made, prompt_tokens=inputs["input_ids"].shape[1], **peak
    )


def train(stage: Stage, model: Any, inputs: dict[str, Tensor]) -> None:
    """Stage 1 of the paper: the connector learns, all else is frozen; the loss is of the last words."""
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    model.connector.train()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -20:] = inputs["input_ids"][:, -20:]
    optimizer = torch.optim.AdamW(model.connector.parameters(), lr=1e-4)

    def step() -> Tensor:
        loss: Tensor = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    losses, taken = [], []
    peak: dict[str, Any] = {}
    for _ in range(3):
        loss, seconds, peak = once(step, stage.device)
        losses.append(round(float(loss), 4))
        taken.append(seconds)
    finite = all(loss == loss and abs(loss) < 1e4 for loss in losses)
    moved = len(set(losses)) > 1
    why = {} if finite and moved else {"why": f"finite: {finite}, changing: {moved}"}
    stage.add("stage 1 learns", "passed" if finite and moved else "failed", losses=losses, **why)
    stage.add("train", "measured", seconds_of_steps=taken, seconds=taken[-1], **peak)


def once(call: Callable[[], Tensor], device: str) -> tuple[Tensor, float, dict[str, Any]]:
    """(result, seconds, peak memory of the device with all that lies on it)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = round(time.perf_counter() - start, 4)
    return result, seconds, {"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
