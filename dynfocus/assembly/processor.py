"""What an assembled model has besides weights: tokenizers, image settings, a chat template, generation defaults."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.constants import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from dynfocus.chat_templates import CHATML, VICUNA
from dynfocus.checkpoint_files import read_json
from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.errors import DynFocusError
from dynfocus.processing_dynfocus import DynFocusProcessor
from dynfocus.video_processing_dynfocus import DynFocusVideoProcessor

_SAMPLING_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def load_language_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The language model's tokenizer with `<video>`; without a pad token it pads with the unknown or the end token.

    Raises:
        DynFocusError: there is none, or nothing to pad with.
    """
    tokenizer = _load_tokenizer(directory, "tokenizer")
    tokenizer.add_tokens([DynFocusProcessor.video_token], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise DynFocusError(f"the tokenizer in {directory} has no pad, unknown or end token, one of which must pad")
    tokenizer.padding_side = "left"
    return tokenizer


def load_qformer_tokenizer(directory: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The Q-Former's tokenizer; BERT's gets `[DEC]`, which LAVIS adds, where the Q-Former has one token more.

    Raises:
        DynFocusError: there is none, or it is not the Q-Former's.
    """
    if (directory / "qformer_tokenizer").is_dir():
        directory = directory / "qformer_tokenizer"
    tokenizer = _load_tokenizer(directory, "qformer_tokenizer")
    if len(tokenizer) == vocab_size - 1:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if len(tokenizer) != vocab_size:
        raise DynFocusError(
            f"the qformer_tokenizer in {directory} has {len(tokenizer)} tokens, but must have {vocab_size}"
        )
    return tokenizer


def build_processor(
    config: DynFocusConfig,
    vision_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    qformer_tokenizer: PreTrainedTokenizerBase,
    vision: Path,
) -> DynFocusProcessor:
    """A processor for `config`, with the vision component's own image settings where its directory has some."""
    is_chatml = "<|im_start|>" in tokenizer.get_vocab()
    return DynFocusProcessor.from_components(
        config,
        _video_processor(vision_config, vision),
        tokenizer,
        qformer_tokenizer,
        chat_template=CHATML if is_chatml else VICUNA,
    )


def load_generation_config(
    directory: Path, text_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, video_token_id: int
) -> GenerationConfig:
    """The language model's generation defaults; sampling settings without sampling, as Vicuna has, are left out."""
    if (directory / "generation_config.json").is_file():
        settings = read_json(directory / "generation_config.json")
        if not settings.get("do_sample"):
            settings = {name: value for name, value in settings.items() if name not in _SAMPLING_SETTINGS}
        generation = GenerationConfig.from_dict(settings)
    else:
        generation = GenerationConfig.from_model_config(text_config)
    generation.pad_token_id = tokenizer.pad_token_id
    # Never an answer: visual placeholders, and the rows of the vocabulary that stand for no token.
    generation.suppress_tokens = [video_token_id, *range(len(tokenizer), text_config.vocab_size)]
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    try:
        generation.validate(strict=True)
    except ValueError as error:
        raise DynFocusError(
            f"generation_config.json in {directory} is not valid: {' '.join(str(error).split())}"
        ) from error
    return generation


def _load_tokenizer(directory: Path, argument: str) -> PreTrainedTokenizerBase:
    if not any(directory.glob("*token*")) and not any(directory.glob("vocab*")):
        raise DynFocusError(f"{directory} has no tokenizer: give {argument}")
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DynFocusError(f"the {argument} in {directory} cannot be loaded: {reason}") from error


def _video_processor(vision_config: PreTrainedConfig, directory: Path) -> DynFocusVideoProcessor:
    siglip = vision_config.model_type == "siglip_vision_model"
    settings: dict[str, Any] = {
        "image_mean": list(IMAGENET_STANDARD_MEAN if siglip else OPENAI_CLIP_MEAN),
        "image_std": list(IMAGENET_STANDARD_STD if siglip else OPENAI_CLIP_STD),
    }
    for file in ("preprocessor_config.json", "processor_config.json"):
        if (directory / file).is_file():
            saved = read_json(directory / file)
            saved = saved.get("image_processor", saved)
            settings |= {name: saved[name] for name in settings if name in saved}
    side = vision_config.image_size
    settings |= {"size": {"height": side, "width": side}, "decode_size": max(side, DynFocusVideoProcessor.decode_size)}
    return DynFocusVideoProcessor(**settings)
