"""The gradient that reaches the scorer is that of the smoothed loss, which is the loss of event tokens E[P(s + σZ)] m.

Its central differences draw the same noise on both sides. They and the gradient are means over NUM_SAMPLES, each with
its own error: what they are off each other has a root mean square of 1 to 2 % over seeds, TOLERANCE is four times that.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynfocus.connector import ConnectorSettings
from dynfocus.event_prototypes import EventPrototypes
from dynfocus.token_budget import TokenPlan
from tests.model import tiny

NUM_SAMPLES, TOLERANCE = 400_000, 0.08
SIGMA = 0.3
STEP = 0.03  # of the scores on [0, 1]: so far that choices change, so near that the slope does not
CHANNELS = 12
SETTINGS = ConnectorSettings(num_events=8, key_ratio=3 / 8, pool_size=2, spatial_levels=((4, 3), (2, 2)))


class Found(NamedTuple):
    loss: Tensor  # float64
    key_index: Tensor
    scores: Tensor


Run = Callable[[], Found]
Direction = Sequence[Tensor]


def relative_error(run: Run, parameters: Sequence[Tensor], directions: Sequence[Direction]) -> float:
    """Of the gradient along directions, against central differences that go as far as they."""
    torch.manual_seed(1)
    gradients = torch.autograd.grad(run().loss, parameters)
    slopes, differences = [], []
    for direction in directions:
        slopes.append(sum((g.double() * d).sum() for g, d in zip(gradients, direction, strict=True)))
        above, below = (moved(run, parameters, direction, sign) for sign in (1, -1))
        assert torch.equal(above.key_index, below.key_index), "key frames change, and with them more than event tokens"
        differences.append((above.loss - below.loss) / 2)
    difference = torch.stack(differences)
    return float((torch.stack(slopes) - difference).norm() / difference.norm())


@torch.no_grad()
def moved(run: Run, parameters: Sequence[Tensor], direction: Direction, times: float) -> Found:
    start = [parameter.clone() for parameter in parameters]
    for parameter, change in zip(parameters, direction, strict=True):
        parameter.add_(times * change)
    torch.manual_seed(2)  # the perturbed maximum draws its seed from torch's generator
    found = run()
    for parameter, value in zip(parameters, start, strict=True):
        parameter.copy_(value)
    return found


def directions_of(run: Run, parameters: Sequence[Tensor]) -> list[Direction]:
    """The gradient's and three random ones, each as long as moves the scores by STEP."""
    directions = [list(torch.autograd.grad(run().loss, parameters))]
    directions += [[torch.randn_like(parameter) for parameter in parameters] for _ in range(3)]
    scores = run().scores.detach()
    for direction in directions:
        little = 1e-3 / torch.cat([change.flatten() for change in direction]).norm()
        change = (moved(run, parameters, direction, little).scores - scores).abs().max() / little
        for part in direction:
            part *= STEP / change
    return directions


def patches_and_plans(*lengths: int) -> tuple[Tensor, list[TokenPlan]]:
    return torch.randn(sum(lengths), 16, CHANNELS), [SETTINGS.plan(length) for length in lengths]


def loss_of_event_tokens(events: EventPrototypes, *lengths: int) -> Run:
    patches, plans = patches_and_plans(*lengths)
    weight = torch.randn(CHANNELS, 5).double()
    target = torch.randn(sum(plan.num_key_frames for plan in plans), 4, 5).double()

    def run() -> Found:
        found = events(patches, plans)
        loss = (found.event_tokens.double() @ weight - target).tanh().square().sum()
        return Found(loss, found.key_index, found.scores)

    return run


def event_prototypes(scorer: str = "mlp") -> EventPrototypes:
    return EventPrototypes(
        CHANNELS, pool_size=2, neighbors=3, scorer=scorer, sigma=SIGMA, num_samples=NUM_SAMPLES
    ).train()


def test_without_noise_every_video_has_the_tokens_of_evaluation():
    events = event_prototypes()
    events.sigma = 1e-6
    patches, plans = patches_and_plans(12, 5, 9)
    torch.testing.assert_close(events(patches, plans).event_tokens, events.eval()(patches, plans).event_tokens)


class GivenScores(nn.Module):
    def __init__(self, *scores: float):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([scores]))

    def forward(self, prototypes: Tensor) -> Tensor:
        return self.scores


def test_gradient_of_each_score():
    events = event_prototypes()
    events.scorer = GivenScores(0.1, 1.3, 0.4, 0.8, 2.1, 0.9, 1.7, 0.2)
    run = loss_of_event_tokens(events, 12)
    coordinates = [[2 * STEP * row.unsqueeze(0)] for row in torch.eye(8)]
    assert relative_error(run, [events.scorer.scores], coordinates) < TOLERANCE


@pytest.mark.parametrize("scorer", ["mlp", "predictor_lg"])
def test_gradient_of_the_scorers_weights(scorer):
    events = event_prototypes(scorer)
    run = loss_of_event_tokens(events, 12, 5, 9)  # the first and the last are selected from together
    parameters = list(events.scorer.parameters())
    assert relative_error(run, parameters, directions_of(run, parameters)) < TOLERANCE


def model_and_inputs(num_frames: int = 9) -> tuple[nn.Module, dict[str, Tensor]]:
    """In float64: far from any answer, an untrained model's loss changes with the scores by 1e-4 or so."""
    model = tiny.model(sigma=SIGMA, num_samples=NUM_SAMPLES).double().train()
    video, question, answer = model.config.video_token_id, [5, 6, 7], [8, 9, 10, 2]
    plan = model.config.connector_settings().plan(num_frames)
    input_ids = torch.tensor([[1, *[video] * plan.num_tokens, *question, *answer]])
    return model, {
        "input_ids": input_ids,
        "labels": torch.cat([torch.full_like(input_ids[:, :-4], -100), torch.tensor([answer])], 1),
        "pixel_values_videos": torch.randn(num_frames, 3, 32, 32).double(),
        "num_frames": torch.tensor([num_frames]),
        "qformer_input_ids": torch.tensor([question]),
    }


def test_gradient_of_the_scorers_weights_from_the_language_loss():
    model, inputs = model_and_inputs()
    connected = []
    model.connector.register_forward_hook(lambda module, args, output: connected.append(output))

    def run() -> Found:
        logits = model(**inputs).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())
        return Found(loss, connected[-1].key_index, connected[-1].scores)

    parameters = list(model.connector.events.scorer.parameters())
    assert relative_error(run, parameters, directions_of(run, parameters)) < TOLERANCE


def test_the_scorer_learns_from_nothing_but_the_language_loss():
    model, inputs = model_and_inputs()
    parameters = list(model.connector.events.scorer.parameters())
    torch.manual_seed(1)
    output = model(**inputs)
    own = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
    learnt = torch.autograd.grad(output.loss, parameters, retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in learnt)
    torch.testing.assert_close(learnt, torch.autograd.grad(own, parameters), rtol=1e-3, atol=1e-7)
    unlabelled = model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)}, num_items_in_batch=1).loss
    assert unlabelled == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(unlabelled, parameters))
