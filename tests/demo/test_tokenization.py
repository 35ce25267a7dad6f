"""The demo's tokenizers: one token a word or digit, nothing lost on unknown text, the same after a round trip through
files."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from dynfocus.demo.build import build
from dynfocus.demo.conversations import image_conversation, video_conversation
from dynfocus.demo.questions import COUNTS, PLACES
from dynfocus.demo.scenes import COLORS, SHAPES, random_scene


@pytest.fixture(scope="module")
def processor():
    return build(seed=0)[1]


@pytest.fixture(scope="module")
def language(processor):
    return processor.tokenizer


@pytest.fixture(scope="module")
def qformer(processor):
    return processor.qformer_tokenizer


@pytest.fixture(scope="module")
def said() -> list[tuple[str, str]]:
    """Questions and answers of many conversations."""
    rng = np.random.default_rng(0)
    scenes = [random_scene("test", 0, index) for index in range(200)]
    turns = [turn for scene in scenes for turn in video_conversation(scene, rng)]
    events = [event for scene in scenes[:50] for event in (*scene.events, None)]
    return turns + [turn for event in events for turn in image_conversation(event, rng)]


def test_words_of_the_demo_are_one_token_wherever_they_stand(language):
    places = {word for place in PLACES for word in place.split()}
    for word in (*COLORS, *SHAPES, *COUNTS, *places, "number", "dot", "dots", "nothing"):
        assert len(language(word, add_special_tokens=False).input_ids) == 1, word
    tokens = language.tokenize("USER: <video>\nWhat color is the circle?")
    assert tokens == ["▁user", ":", "<video>", "▁what", "▁color", "▁is", "▁the", "▁circle", "?"]


def test_digits_are_tokens_of_their_own(language):
    assert language.tokenize("47") == ["▁", "4", "7"]
    assert language.tokenize("number 10, one dot") == ["▁number", "▁", "1", "0", ",", "▁one", "▁dot"]
    assert language.tokenize("480")[1:] == ["4", "8", "0"]


def test_everything_said_comes_back_without_a_byte(language, said):
    for question, answer in said:
        for text in (question, answer):
            ids = language(text, add_special_tokens=False).input_ids
            assert language.decode(ids) == text.lower()
            pieces = language.convert_ids_to_tokens(ids)
            assert not any(piece == "<unk>" or piece.startswith("<0x") for piece in pieces), text


def test_questions_are_whole_words_to_the_qformer(qformer, said):
    for question, _ in said:
        tokens = qformer.tokenize(question)
        assert qformer.unk_token not in tokens and not any(token.startswith("##") for token in tokens), question
        assert " ".join(tokens) == question.lower().replace("?", " ?").replace(",", " ,").replace(".", " .")


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
        for text in ("Which came first, the red circle or the blue square?", "<video> Ünknown 74%"):
            assert loaded(text).input_ids == tokenizer(text).input_ids
    assert AutoTokenizer.from_pretrained(tmp_path / "language").padding_side == "left"
