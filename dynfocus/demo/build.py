"""The demo model and its processor, untrained: every component is the real one of a DynFocus model, only small."""

from __future__ import annotations

import torch
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, LlamaConfig, PreTrainedTokenizerBase

from dynfocus import DynFocusConfig, DynFocusForConditionalGeneration, DynFocusProcessor, DynFocusVideoProcessor
from dynfocus.chat_templates import PLAIN
from dynfocus.demo.conversations import CAPTION_TEMPLATES
from dynfocus.demo.questions import all_answers, all_questions
from dynfocus.demo.tokenization import build_language_tokenizer, build_qformer_tokenizer

SAMPLED_FRAMES = 64
IMAGE_SIZE = 96


def build(seed: int) -> tuple[DynFocusForConditionalGeneration, DynFocusProcessor]:
    """The model with random weights that follow from the seed, and its processor.

    The processor samples 64 frames of 96 x 96 pixels from the whole video; its tokenizers know the demo's words.
    """
    questions = [*all_questions(), *CAPTION_TEMPLATES]
    tokenizer = build_language_tokenizer([*questions, *all_answers(), "nothing", "USER: ASSISTANT:"])
    tokenizer.add_tokens(["<video>"], special_tokens=True)
    qformer_tokenizer = build_qformer_tokenizer(questions)
    config = build_config(tokenizer, qformer_tokenizer)
    video_processor = DynFocusVideoProcessor(
        num_frames=SAMPLED_FRAMES,
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        decode_size=IMAGE_SIZE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = DynFocusProcessor.from_components(
        config, video_processor, tokenizer, qformer_tokenizer, chat_template=PLAIN
    )
    torch.manual_seed(seed)
    return DynFocusForConditionalGeneration(config), processor


def build_config(tokenizer: PreTrainedTokenizerBase, qformer_tokenizer: PreTrainedTokenizerBase) -> DynFocusConfig:
    """Widths of 64 to 256 and two or three layers a component."""
    vision = InstructBlipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=8,
        # About hidden_size^-1/2: at the usual 0.02 so narrow a tower takes thrice the steps to tell shapes apart.
        initializer_range=0.15,
    )
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(qformer_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return DynFocusConfig(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        num_events=16,
        key_ratio=0.375,
        # Over patches alone, squared distances of hundreds drown log δ in log ρ, and the events miss the objects.
        temporal_scale="channels",
        num_query_tokens=4,
        max_visual_tokens=1200,
        # Gives the text-modulated token a projector of its own, which tells it apart from the average token beside it:
        # with a common one, questions about one of several objects take several times as many steps to learn.
        share_projector=True,
        initializer_range=0.08,
    )
