"""Training conversations: what is asked, what is labelled, and that the model sees what it will see when asked."""

import numpy as np
import pytest
import torch

from dynfocus.demo.build import build
from dynfocus.demo.examples import IGNORED, QuestionCollator, QuestionDataset
from dynfocus.demo.scenes import encode, random_scene, render

SCENES = [random_scene("test", 0, index) for index in range(3)]


@pytest.fixture(scope="module")
def processor():
    return build(seed=0)[1]


@pytest.fixture
def dataset():
    return QuestionDataset(SCENES, torch.randn(3, 32, 5, 4), length=40, seed=1)


def test_the_same_index_gives_the_same_conversation_and_the_videos_take_turns(dataset):
    assert len(dataset) == 40
    assert dataset[4].turns == dataset[4].turns
    assert torch.equal(dataset[4].features, dataset.features[1])
    assert len({tuple(question.text for question in dataset[index].turns) for index in range(1, 40, 3)}) > 5


def test_the_description_comes_last_for_it_answers_all_the_rest(dataset):
    kinds = [[question.kind for question in dataset[index].turns] for index in range(40)]
    assert {len(turns) for turns in kinds} == {1, 2}
    for turns in kinds:
        assert turns[-1] == "description" and "description" not in turns[:-1]


def test_only_answers_and_their_end_tokens_are_labelled(processor, dataset):
    examples = [dataset[index] for index in range(4)]
    batch = QuestionCollator(processor)(examples)
    end = processor.tokenizer.eos_token
    for labels, example in zip(batch["labels"], examples, strict=True):
        said = processor.tokenizer.decode(labels[labels != IGNORED])
        assert [answer.strip() for answer in said.split(end)] == [*(q.answer for q in example.turns), ""]
    labelled = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][labelled], batch["input_ids"][labelled])
    assert batch["video_features"].shape == (4 * 32, 5, 4)
    assert batch["num_frames"].tolist() == [32] * 4
    asked = processor.qformer_tokenizer.batch_decode(batch["qformer_input_ids"], skip_special_tokens=True)
    for question, example in zip(asked, examples, strict=True):
        assert question.replace(" ", "") == example.turns[0].text.lower().replace(" ", "")


def test_a_conversation_begins_as_the_processor_writes_it(processor, dataset, tmp_path):
    """Training on cached features and asking about a file give the same prompt, token for token."""
    encode(render(SCENES[0]), tmp_path / "scene.mp4")
    example = dataset[0]
    question = example.turns[0]
    content = [{"type": "video", "video": str(tmp_path / "scene.mp4")}, {"type": "text", "text": question.text}]
    asked = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    trained = QuestionCollator(processor)([example])
    prompt = asked["input_ids"][0]
    assert torch.equal(trained["input_ids"][0, : len(prompt)], prompt)
    assert (trained["labels"][0, : len(prompt)] == IGNORED).all()
    assert trained["labels"][0, len(prompt)] != IGNORED
    assert torch.equal(trained["qformer_input_ids"], asked["qformer_input_ids"])


def test_later_turns_follow_as_the_chat_template_writes_them(processor, dataset):
    example = dataset[2]
    messages = []
    for number, question in enumerate(example.turns):
        video = [{"type": "video"}] if number == 0 else []
        messages.append({"role": "user", "content": [*video, {"type": "text", "text": question.text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": question.answer}]})
    text = processor.apply_chat_template(messages)
    visual_tokens = processor.plan(32).num_tokens
    expected = processor.tokenizer(text.replace("<video>", "<video>" * visual_tokens)).input_ids
    assert np.array_equal(QuestionCollator(processor)([example])["input_ids"][0], expected)
