"""The demo's two tokenizers, built from its own questions: no file, no download.

Unknown words stay readable: the language model's tokenizer falls back to bytes, the Q-Former's to single characters.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]


def build_language_tokenizer(corpus: Iterable[str], vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """Byte-pair encoding in which each word of the corpus is one token and any other text falls back to bytes.

    Lower-cases, begins with ``<s>``, pads on the left as generation needs.
    """
    special = [*SPECIAL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))]
    trained = _byte_pair_encoding(models.BPE(unk_token="<unk>"))
    trained.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    # The trainer marks the bytes as special, and decoding would drop them: take its vocabulary into a fresh tokenizer.
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    tokenizer = _byte_pair_encoding(
        models.BPE(vocab=state["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", state["vocab"]["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_qformer_tokenizer(corpus: Iterable[str]) -> BertTokenizer:
    """WordPiece with the words of the corpus, and single characters for all others."""
    words = sorted({word for text in corpus for word in re.findall(r"\w+", text.lower())})
    characters = list(string.ascii_lowercase + string.digits)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *characters]
    pieces += [f"##{character}" for character in characters]
    pieces += [word for word in words if word not in pieces]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def _byte_pair_encoding(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # A word is the same token wherever it stands ("▁circle"), and punctuation is apart ("▁circle", "?");
    # every digit is one of its own, as language models of today have it.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
