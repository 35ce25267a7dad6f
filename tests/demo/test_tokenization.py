"""The demo's tokenizers: one token a word, nothing lost on unknown text, the same after a round trip through files."""

import pytest
from transformers import AutoTokenizer

from dynfocus.demo.questions import all_questions
from dynfocus.demo.scenes import COLORS, SHAPES
from dynfocus.demo.tokenization import build_language_tokenizer, build_qformer_tokenizer


@pytest.fixture(scope="module")
def language():
    tokenizer = build_language_tokenizer([*all_questions(), "USER: ASSISTANT:"])
    tokenizer.add_tokens(["<video>"], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def qformer():
    return build_qformer_tokenizer(all_questions())


def test_words_of_the_demo_are_one_token_wherever_they_stand(language):
    for word in (*COLORS, *SHAPES):
        assert len(language(word, add_special_tokens=False).input_ids) == 1
    tokens = language.tokenize("USER: <video>\nWhat color is the circle?")
    assert tokens == ["▁user", ":", "<video>", "▁what", "▁color", "▁is", "▁the", "▁circle", "?"]


def test_the_language_tokenizer_keeps_unknown_text(language):
    text = "a naïve 日 dog (42)"
    ids = language(text).input_ids
    assert language.unk_token_id not in ids
    assert language.decode(ids, skip_special_tokens=True) == text


def test_the_qformer_tokenizer_spells_unknown_words(qformer):
    assert qformer.tokenize("What color is the dog?") == ["what", "color", "is", "the", "d", "##o", "##g", "?"]


def test_files_give_the_same_tokens(language, qformer, tmp_path):
    for name, tokenizer in (("language", language), ("qformer", qformer)):
        tokenizer.save_pretrained(tmp_path / name)
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        for text in ("Which came first, the red circle or the blue square?", "<video> Ünknown 7%"):
            assert loaded(text).input_ids == tokenizer(text).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "language").padding_side == "left"
