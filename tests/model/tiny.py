"""A DynFocus small enough for tests: every real component, random weights, tokenizers made on the spot."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from dynfocus import DynFocusConfig, DynFocusForConditionalGeneration, DynFocusProcessor, DynFocusVideoProcessor
from dynfocus.chat_templates import VICUNA

VOCABULARY = """
    a chat between curious user and an artificial intelligence assistant the gives helpful detailed polite answers to
    's questions what color is circle square red blue came first or object shape which : ? . , < > video image in this
"""
WORDS = VOCABULARY.split()


def language_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def qformer_tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])})


def config(vision: dict | None = None, language: dict | None = None, **fields) -> DynFocusConfig:
    vision = {
        "model_type": "instructblip_vision_model",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.02,
        **(vision or {}),
    }
    qformer = {
        "vocab_size": 80,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    language = {
        "model_type": "llama",
        "vocab_size": 80,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **(language or {}),
    }
    settings = {
        "num_events": 6,
        "key_ratio": 0.5,
        "pool_size": 2,
        "temporal_neighbors": 3,
        "spatial_levels": [[4, 3], [2, 2]],
        "num_query_tokens": 4,
        "num_samples": 64,
        "max_visual_tokens": 128,
        "vision_chunk_size": 5,
        "video_token_id": len(WORDS) + 4,
    } | fields
    return DynFocusConfig(vision_config=vision, qformer_config=qformer, text_config=language, **settings)


def model(seed: int = 0, **fields) -> DynFocusForConditionalGeneration:
    torch.manual_seed(seed)
    return DynFocusForConditionalGeneration(config(**fields)).eval()


def processor(model_config: DynFocusConfig | None = None, **video_settings) -> DynFocusProcessor:
    video_processor = DynFocusVideoProcessor(**{"size": {"height": 32, "width": 32}, **video_settings})
    return DynFocusProcessor.from_components(
        model_config or config(), video_processor, language_tokenizer(), qformer_tokenizer(), VICUNA
    )
