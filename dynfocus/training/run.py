"""`dynfocus train`: a recipe becomes a run of the trainer, from nothing or from where it was interrupted."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations, is_deepspeed_zero3_enabled

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.errors import DynFocusError
from dynfocus.loading import check_model_directory, embedded_model, load_model, load_processor, read_config
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.output_files import check_directory
from dynfocus.processing_dynfocus import DynFocusProcessor
from dynfocus.training.collation import TrainingCollator
from dynfocus.training.connector_changes import CHANGES_FILE, with_changes
from dynfocus.training.dataset import BrokenSamples, TrainingDataset
from dynfocus.training.encoding import SampleEncoder
from dynfocus.training.features import FeatureFiles, fingerprint
from dynfocus.training.mixture import Mixture, open_source
from dynfocus.training.precomputing import FrozenTower, compute_missing
from dynfocus.training.recipe import Recipe
from dynfocus.training.resuming import check_same_run, last_checkpoint, where_to_go_on
from dynfocus.training.trainable import add_lora, freeze, quantization, set_precision
from dynfocus.training.trainer import DynFocusTrainer, flush_to_disk

BROKEN_FILE = "broken.jsonl"


def train(recipe: Recipe, output: Path | str | None = None, resume: bool = False) -> Path:
    """Trains and returns the directory of the trained model, or with LoRA of its adapter.

    `output` (the recipe's unless given) gets checkpoint-N, log.jsonl, broken.jsonl with the samples that were
    skipped, and at the end `model` or `adapter`. Under torchrun or accelerate's launcher each process calls this; the
    directory must be one that all of them share.

    Args:
        resume: go on from the last checkpoint in `output`, from the beginning where there is none yet.

    Raises:
        DynFocusError: data or model are missing or do not fit the recipe, `output` is in use or of another run, a
            loss or gradient is not finite, or memory ran out; the last checkpoint is whole in any case.
    """
    if (output := output or recipe.output) is None:
        raise DynFocusError("output is missing; it must be a directory, in the recipe or as --output")
    folder = Path(output)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked after the tokenizer was used
    _check_output(folder, resume)  # by all processes, before `training_arguments` lets any of them go on and write
    if recipe.data.features is not None:
        check_directory(recipe.data.features)
    sources = [open_source(settings) for settings in recipe.data.sources]
    arguments = training_arguments(recipe, folder)
    base, processor = load_for_training(recipe)
    saved_dtype = base.dtype
    model = prepare_model(base, recipe)
    description = {"recipe": recipe.to_dict(), "model": _config(base)}
    checkpoint = last_checkpoint(folder) if resume else None
    if checkpoint is not None:
        check_same_run(checkpoint, description)
    mixture = Mixture(sources, recipe.seed)
    with _explained(folder, lambda: "before step 1"):
        encoder, collator = data_pipeline(base, processor, mixture, recipe, arguments)
    broken = BrokenSamples(folder / BROKEN_FILE)
    trainer = DynFocusTrainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=TrainingDataset(mixture, encoder, broken, recipe.data.max_broken),
        processing_class=processor,
        recipe=recipe,
        base=base,
        description=description,
        broken=broken,
    )
    if trainer.is_world_process_zero():
        for source in sources:
            for entry, reason in source.broken:
                broken.add(source.name, -1 - entry, None, reason)  # negative: an entry of the file, not a sample of it
        print(_summary(trainer, sources, checkpoint), file=sys.stderr)
    with _explained(folder, lambda: f"step {trainer.state.global_step + 1}"):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if recipe.lora is None:
        return _save(trainer, folder / "model", saved_dtype)
    return _save(trainer, folder / "adapter", torch.float32)


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """What of the recipe is the Trainer's; global_batch_size is divided among the processes that there are.

    Raises:
        DynFocusError: it cannot be, one process sees several GPUs, or they or what is installed cannot do as asked.
    """
    schedule, data = recipe.schedule, recipe.data
    loggers = ["none", *get_available_reporting_integrations()]
    if recipe.report_to not in loggers:
        raise DynFocusError(f"report_to is {recipe.report_to!r} but must be of what is installed: {', '.join(loggers)}")
    if recipe.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise DynFocusError("precision is bf16 but this GPU has no bfloat16; set it to fp32")
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=schedule.batch_size,
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps or -1,
        learning_rate=max(recipe.learning_rates.values()),
        lr_scheduler_type="constant_with_warmup" if schedule.shape == "constant" else schedule.shape,
        warmup_steps=schedule.warmup,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        adam_beta2=schedule.beta2,
        bf16=recipe.precision == "bf16",
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        save_steps=recipe.save_every,
        save_total_limit=recipe.keep,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,  # the trainer ends at the first
        report_to=recipe.report_to,
        remove_unused_columns=False,
        dataloader_num_workers=data.workers,
        dataloader_prefetch_factor=data.prefetch if data.workers else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        seed=recipe.seed,
    )
    if arguments.n_gpu > 1:
        raise DynFocusError(
            f"one process sees {arguments.n_gpu} GPUs; start one for each, "
            f"`torchrun --nproc-per-node {arguments.n_gpu} -m dynfocus train …`, or set CUDA_VISIBLE_DEVICES"
        )
    together = schedule.batch_size * arguments.world_size
    if schedule.global_batch_size % together:
        raise DynFocusError(
            f"schedule.global_batch_size is {schedule.global_batch_size} but must be a multiple of {together}: "
            f"{arguments.world_size} processes with schedule.batch_size {schedule.batch_size}"
        )
    arguments.gradient_accumulation_steps = schedule.global_batch_size // together
    return arguments


def data_pipeline(
    base: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    mixture: Mixture,
    recipe: Recipe,
    arguments: TrainingArguments,
) -> tuple[SampleEncoder, TrainingCollator]:
    """What makes samples and batches of the mixture ready; with data.features, once all features are there."""
    if recipe.data.features is None:
        return SampleEncoder(processor, recipe.data), TrainingCollator(processor)
    with FrozenTower(base, recipe.precision, arguments.device) as tower:
        files = FeatureFiles(Path(recipe.data.features), fingerprint(base.vision_tower, processor.video_processor))
        encoder = SampleEncoder(processor, recipe.data, files)
        compute_missing(tower, encoder, mixture, recipe, arguments)
        return encoder, TrainingCollator(processor, tower)


def model_directory(recipe: Recipe) -> Path:
    """Where the recipe's model lies; "demo" is the one that comes with the package."""
    return embedded_model() if recipe.model == "demo" else Path(recipe.model)


def model_config(recipe: Recipe) -> DynFocusConfig:
    """The model's configuration with the recipe's changes of its connector; no weights are read.

    Raises:
        DynFocusError: there is none, or the changes do not fit it.
    """
    directory = model_directory(recipe)
    if not (directory / "config.json").is_file():
        raise DynFocusError(f"{directory}: no such model directory; it needs a config.json, weights are not read")
    return with_changes(read_config(directory), recipe.connector)


def load_for_training(recipe: Recipe) -> tuple[DynFocusForConditionalGeneration, DynFocusProcessor]:
    """The recipe's model with its changes of the connector, in 4 bits for QLoRA, and its processor.

    Raises:
        DynFocusError: the directory is no whole DynFocus model, the changes do not fit it, or bitsandbytes is needed
            and not installed.
    """
    directory = model_directory(recipe)
    check_model_directory(directory)
    config = model_config(recipe)
    if recipe.lora is None or not recipe.lora.quantize:
        return load_model(directory, device="cpu", config=config)
    model = DynFocusForConditionalGeneration.from_pretrained(
        directory, config=config, quantization_config=quantization()
    )
    return model, load_processor(directory, config)


def prepare_model(base: DynFocusForConditionalGeneration, recipe: Recipe) -> nn.Module:
    """Freezes what does not train, adds adapters, sets dtypes; gives `base` or peft's wrapper of it."""
    freeze(base, recipe.learning_rates)
    torch.manual_seed(recipe.seed)  # of the adapters' first weights, the same in every process
    if is_deepspeed_zero3_enabled() and base.config.text_queries == "frame":
        raise DynFocusError(
            "text_queries is 'frame', which calls the Q-Former as often as a process has frames; ZeRO-3 needs all "
            "processes to call it equally often: use FSDP2 or ZeRO-2"
        )
    model = base if recipe.lora is None else add_lora(base, recipe, recipe.lora)
    if not is_deepspeed_zero3_enabled():  # which holds weights in pieces and casts them itself
        set_precision(model, recipe.precision)
    return model


def _config(model: DynFocusForConditionalGeneration) -> dict[str, Any]:
    settings = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in settings.items() if key not in ("transformers_version", "_name_or_path")}


def _check_output(output: Path, resume: bool) -> None:
    check_directory(output)
    if (output / "model").exists() or (output / "adapter").exists():
        raise DynFocusError(f"{output} holds a finished run; choose another directory")
    if not resume and output.exists() and any(output.iterdir()):
        raise DynFocusError(f"{output} exists and is not empty; --resume goes on with the run in it")


def _summary(trainer: DynFocusTrainer, sources: list, checkpoint: Path | None) -> str:
    # ZeRO-3 leaves empty weights and their number.
    sizes = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in trainer.model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    arguments, samples = trainer.args, len(trainer.train_dataset)
    start = "from the beginning" if checkpoint is None else f"on from {checkpoint}"
    broken = sum(len(source.broken) for source in sources)
    return (
        f"training {trained:,} of {total:,} parameters on {samples:,} samples of {len(sources)} sources "
        f"({broken} entries unreadable), {arguments.per_device_train_batch_size} × {arguments.world_size} processes × "
        f"{arguments.gradient_accumulation_steps} accumulated a step, {start}"
    )


@contextmanager
def _explained(output: Path, when: Callable[[], str]) -> Iterator[None]:
    """What a user can mend, in words: out of memory, a worker that died, an error that a worker hands on."""
    try:
        yield
    except DynFocusError as error:
        # One that a worker raised comes with its traceback before it.
        message = str(error).strip().splitlines()[-1].removeprefix("dynfocus.errors.DynFocusError: ")
        raise DynFocusError(message) from error
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        reason = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in reason:
            advice = "lower schedule.batch_size or data.max_frames, or shard the model (docs/training.md)"
            what = f"out of memory ({' '.join(reason.split())[:200]}); {advice}"
        elif "DataLoader worker" in reason and ("killed" in reason or "exited unexpectedly" in reason):
            what = f"a decoding process died ({' '.join(reason.split())[:200]}); lower data.workers or data.max_frames"
        else:
            raise
        raise DynFocusError(f"{when()}: {what}; {where_to_go_on(output)}") from error


def _save(trainer: DynFocusTrainer, target: Path, dtype: torch.dtype) -> Path:
    """The trained model and its processor; they appear whole."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        trainer.base.config.dtype = dtype
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(partial, state_dict=state)
        trainer.processing_class.save_pretrained(partial)
        if trainer.recipe.lora is not None:  # an adapter has no configuration of the model
            (partial / CHANGES_FILE).write_text(json.dumps(trainer.recipe.connector), encoding="utf-8")
        flush_to_disk(partial)
        partial.rename(target)
    trainer.accelerator.wait_for_everyone()
    return target
