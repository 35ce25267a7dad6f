"""Recipes: everything a training run depends on, read from YAML and checked before anything is loaded."""

import dataclasses
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_type_hints

from dynfocus.connector import ConnectorSettings
from dynfocus.errors import DynFocusError
from dynfocus.training.typed_yaml import from_mapping, parse_value, read_yaml


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """One data set of the mixture.

    path: its annotation file. layout: how that is written, see `dynfocus.training.layouts`.
    media: the folder its images and videos lie in. weight: how often each sample is seen in an epoch; with 0.5 a fixed
    random half is seen. videos: for NExT-QA, the file that maps a video's number to its place.
    """

    path: str
    layout: Literal[
        "llava", "llava-filter-cc3m", "llava-665k", "webvid", "scienceqa", "videochatgpt", "nextqa", "clevrer"
    ] = "llava"
    media: str = "."
    weight: float = 1.0
    videos: str | None = None

    def __post_init__(self) -> None:
        _positive("data.sources: weight", self.weight)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What is trained on.

    max_tokens: the longest sequence, visual tokens included; whole turns from the end, then words of the last answer,
    are cut to keep it. max_visual_tokens: of a sample's visuals together; null is the model's own.
    prompt: "chat", as the model is asked in use, or "caption", where the language model sees the visual tokens and is
    to say the answer, and only the Q-Former reads the question.
    visual_turns: "each" question of a conversation gets visual tokens of its own, made for it by the Q-Former, or the
    "first" alone. max_turns: later turns are left out.
    num_frames, fps, max_frames: what is sampled of a video; null is the processor's own.
    workers: processes that decode; prefetch: batches each keeps ready. Together with batch size and frames they bound
    the memory of decoding.
    features: a folder for the frozen vision tower's features, float16. What is missing of images and videos is computed
    before the run and read, in this run and later ones, in place of decoding them and running the tower.
    max_broken: this many broken samples of a source one after the other end the run: then it is no accident.
    """

    sources: tuple[SourceSettings, ...]
    max_tokens: int = 2048
    max_visual_tokens: int | None = None
    prompt: Literal["chat", "caption"] = "chat"
    visual_turns: Literal["each", "first"] = "each"
    max_turns: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    workers: int = 4
    prefetch: int = 2
    max_broken: int = 50
    features: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise DynFocusError("data.sources is empty; it must have at least one source")
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int | float) and name != "workers":
                _positive(f"data.{name}", value)
        _not_negative("data.workers", self.workers)


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """Steps and learning rate. `steps`, if given, in place of `epochs`; a step sees global_batch_size samples, over
    all devices and accumulated batches of batch_size. warmup: the share of steps in which the rate rises from 0."""

    global_batch_size: int
    batch_size: int
    epochs: float = 1.0
    steps: int | None = None
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    beta2: float = 0.999

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "batch_size", "epochs", "max_grad_norm"):
            _positive(f"schedule.{name}", getattr(self, name))
        if self.steps is not None:
            _positive("schedule.steps", self.steps)
        _not_negative("schedule.weight_decay", self.weight_decay)
        for name in ("warmup", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise DynFocusError(f"schedule.{name} is {getattr(self, name)} but must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """σ of the perturbed maximum over the run, from `sigma` to `sigma_end` (the same unless given)."""

    sigma: float = 0.1
    sigma_end: float | None = None
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        _positive("selection.sigma", self.sigma)
        if self.sigma_end is not None:
            _positive("selection.sigma_end", self.sigma_end)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters in place of the language model's own weights; its entry in `learning_rates` is theirs.

    targets: names of its linear layers, or "all-linear". quantize: hold the language model in 4 bits (QLoRA).
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    quantize: bool = False

    def __post_init__(self) -> None:
        _positive("lora.rank", self.rank)
        _positive("lora.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise DynFocusError(f"lora.dropout is {self.dropout} but must be at least 0 and below 1")
        if not self.targets:
            raise DynFocusError("lora.targets is empty; it must name linear layers of the language model")


if TYPE_CHECKING:
    ConnectorChanges = dict[str, Any]
else:  # every field with its type
    ConnectorChanges = TypedDict(
        "ConnectorChanges", {**get_type_hints(ConnectorSettings), "text_queries": Literal["text", "frame"]}, total=False
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run.

    model: a DynFocus directory, such as `dynfocus assemble` or an earlier stage made.
    learning_rates: module → rate. What is not named is frozen; the longest matching name decides, and 0 freezes a part
    of what is named, as in {qformer: 2e-5, connector: 2e-5, connector.rods: 0}.
    connector: settings of the model's connector to change, as in {temporal: kmeans, num_events: 16}: any that leave
    the weights' shapes, see `ConnectorSettings`, and text_queries; the saved model has them. While it trains, σ is that
    of `selection`, and a sample's visuals share data.max_visual_tokens where that is given.
    precision: "bf16" holds frozen weights in bfloat16 and computes in it; trained weights stay in float32.
    save_every, keep: a checkpoint after so many steps, and how many of them are kept. log_every: in steps.
    report_to: "none", "tensorboard", "wandb", … as transformers names them.
    """

    model: str
    learning_rates: dict[str, float]
    data: DataSettings
    schedule: ScheduleSettings
    output: str | None = None
    selection: SelectionSettings = dataclasses.field(default_factory=SelectionSettings)
    connector: ConnectorChanges = dataclasses.field(default_factory=dict)
    lora: LoraSettings | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    report_to: str = "none"

    def __post_init__(self) -> None:
        for module, rate in self.learning_rates.items():
            _not_negative(f"learning_rates.{module}", rate)
        if not any(self.learning_rates.values()):
            raise DynFocusError("learning_rates trains nothing; at least one module must have a rate above 0")
        if self.lora is not None and not self.learning_rates.get("language_model"):
            raise DynFocusError("lora is given but learning_rates.language_model, the rate of its adapters, is not")
        for module, rate in self.learning_rates.items():
            if self.data.features is not None and rate and module.partition(".")[0] == "vision_tower":
                raise DynFocusError(
                    f"learning_rates.{module} trains the vision tower but data.features keeps the features of a frozen "
                    "one; leave one of them out"
                )
        try:  # the defaults go with any one change; whether the model's own settings do is seen when it is read
            ConnectorSettings(**{name: value for name, value in self.connector.items() if name != "text_queries"})
        except ValueError as error:
            raise DynFocusError(f"connector.{error}") from error
        for name in ("save_every", "keep", "log_every"):
            _positive(name, getattr(self, name))
        _not_negative("seed", self.seed)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: lists for tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def shipped_recipes() -> dict[str, Path]:
    """Name → file of the recipes that come with the package."""
    folder = Path(str(files("dynfocus.training") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_recipe(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe. Paths in it are relative to the current directory.

    Args:
        recipe: a YAML file, or the name of a shipped recipe.
        changes: "key=value" each, such as "schedule.batch_size=2" or "data.sources[0].media=/data".

    Raises:
        DynFocusError: it cannot be read, or a key, a type or a value in it is wrong.
    """
    shipped = shipped_recipes()
    file = shipped.get(str(recipe), Path(recipe))
    if not file.is_file() and file.suffix not in (".yaml", ".yml"):
        raise DynFocusError(f"{recipe} is neither a file nor a shipped recipe; those are {', '.join(shipped)}")
    content = read_yaml(file)
    for change in changes:
        _apply(content, change)
    try:
        return from_mapping(Recipe, content)
    except DynFocusError as error:
        raise DynFocusError(f"{recipe}: {error}") from None


def _apply(content: Any, change: str) -> None:
    """Sets one "a.b[0].c=value" in the nested mappings and lists of a recipe."""
    path, equals, value = change.partition("=")
    if not equals:
        raise DynFocusError(f"{change!r} must have the form key=value")
    steps = path.replace("[", ".").replace("]", "").split(".")
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        key: Any = int(step) if isinstance(content, list) and step.isdecimal() else step
        if isinstance(content, list) and not (isinstance(key, int) and key < len(content)):
            raise DynFocusError(f"{change!r} names no entry of the recipe: {step!r} is not one of {len(content)}")
        if following is None:
            content[key] = parse_value(value)
        else:
            content = content[key] if isinstance(content, list) else content.setdefault(key, {})
            if not isinstance(content, dict | list):
                raise DynFocusError(f"{change!r} names no entry of the recipe: {step} is {content!r}")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise DynFocusError(f"{name} is {value} but must be positive")


def _not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise DynFocusError(f"{name} is {value} but must not be negative")
