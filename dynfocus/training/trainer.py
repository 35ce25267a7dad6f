"""transformers' Trainer with a rate per module, checkpoints that are whole or not there, and an end to bad losses."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import rotate_checkpoints

from dynfocus.errors import DynFocusError
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.training.dataset import BrokenSamples
from dynfocus.training.encoding import IGNORED
from dynfocus.training.recipe import Recipe
from dynfocus.training.resuming import RUN_FILE, where_to_go_on
from dynfocus.training.schedules import sigma_at
from dynfocus.training.trainable import optimizer_groups


class DynFocusTrainer(Trainer):
    """Trains by `recipe`.

    Args:
        base: the DynFocus model itself, where `model` may be peft's wrapper of it.
        description: what identifies the run; every checkpoint has it in `run.json`.
        broken: where skipped samples are named; their number is logged.
    """

    def __init__(
        self,
        *args: Any,
        recipe: Recipe,
        base: DynFocusForConditionalGeneration,
        description: dict[str, Any],
        broken: BrokenSamples,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.recipe = recipe
        self.base = base
        self.description = description
        self.broken = broken
        # Dropout of a frozen module that no gradient passes would only add noise. (The language model is not one.)
        self.idle = [
            module
            for module in (base.vision_tower, base.qformer)
            if not any(parameter.requires_grad for parameter in module.parameters())
        ]
        self.add_callback(_RunCallback(recipe, base))
        self.add_callback(_LogFile(Path(self.args.output_dir) / "log.jsonl"))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            target = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, target)
            self.optimizer = optimizer_class(optimizer_groups(target, self.recipe), **settings)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        for module in self.idle:
            module.eval()
        if "pixel_values_videos" in inputs and (self.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
            chunks = torch.tensor(tower_calls(self.base, inputs), device=self.args.device)
            inputs = with_tower_calls(self.base, inputs, int(self.accelerator.gather(chunks).max()))
        inputs = {**inputs, **where_labelled(inputs["labels"]), "use_cache": False}
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss):
            raise DynFocusError(f"{self._where()}: the loss is {loss.item()}; {self._advice()}")
        return result

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """The gradient's norm, which Trainer asks for before the optimiser's step: one that is not finite would ruin
        every weight."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise DynFocusError(f"{self._where()}: the gradient's norm is {float(norm)}; {self._advice()}")
        return norm

    def _where(self) -> str:
        return f"step {self.state.global_step + 1}"

    def _advice(self) -> str:
        last = where_to_go_on(Path(self.args.output_dir))
        return f"the weights are still those before it; {last}; try lower learning_rates"

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.is_world_process_zero() and (broken := self.broken.count()):
            logs["broken_samples"] = broken
        super().log({**logs, "sigma": self.base.connector.events.sigma}, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written beside its place and renamed when whole: a run killed in between leaves the last one as it was."""
        name = f"checkpoint-{self.state.global_step}"
        output, partial = Path(self.args.output_dir), Path(self.args.output_dir) / ".partial"
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._writing_to = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        except OSError as error:
            reason = error.strerror or error
            raise DynFocusError(
                f"step {self.state.global_step}: the checkpoint cannot be written ({reason}); {where_to_go_on(output)}"
            ) from error
        finally:
            self._writing_to = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            (partial / name / RUN_FILE).write_text(json.dumps(self.description, indent=1), encoding="utf-8")
            flush_to_disk(partial)
            shutil.rmtree(output / name, ignore_errors=True)
            (partial / name).rename(output / name)
            partial.rmdir()
            rotate_checkpoints(str(output), save_total_limit=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    _writing_to: str | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing_to or super()._get_output_dir(trial)


def where_labelled(labels: Tensor) -> dict[str, Tensor]:
    """labels [B, S] → the P columns whose next token has a loss in any row, and these tokens [B, P], as arguments of
    the language model: it then makes no logits where nearly all visual tokens are."""
    following = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    columns = (following != IGNORED).any(0).nonzero()[:, 0]
    return {"logits_to_keep": columns, "shift_labels": following[:, columns]}


def tower_calls(base: DynFocusForConditionalGeneration, inputs: dict[str, Any]) -> int:
    """How often a batch's frames pass the vision tower, a chunk at a time."""
    return -(-len(inputs["pixel_values_videos"]) // base.config.vision_chunk_size)


def with_tower_calls(base: DynFocusForConditionalGeneration, inputs: dict[str, Any], calls: int) -> dict[str, Any]:
    """The batch with as many black frames, which frame_index never names, as make the tower be called `calls` times.

    Processes that hold its weights in pieces gather them at every call: with fewer calls one would let others wait.
    """
    pixels = inputs["pixel_values_videos"]
    missing = (calls - 1) * base.config.vision_chunk_size + 1 - len(pixels)
    if missing <= 0:
        return inputs
    return {**inputs, "pixel_values_videos": torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])}


class _RunCallback(TrainerCallback):
    """σ follows its schedule; processes draw different noise."""

    def __init__(self, recipe: Recipe, base: DynFocusForConditionalGeneration):
        self.recipe = recipe
        self.base = base

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        torch.manual_seed(self.recipe.seed + args.process_index)

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.base.connector.events.sigma = sigma_at(self.recipe.selection, state.global_step / state.max_steps)


class _LogFile(TrainerCallback):
    """What Trainer logs, as JSON lines; lines of steps that a killed run lost are dropped when it goes on."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
            self.file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")  # the line a killed process was writing


def flush_to_disk(directory: Path) -> None:
    """Waits until everything below `directory` is on the disk, so that a rename cannot overtake it."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
