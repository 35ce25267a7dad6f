import pytest
import torch
from torch.autograd import gradcheck

from dynfocus_ops import pack_frame_tokens

from .support import assert_same_bits, backends, gradients

every_backend = pytest.mark.parametrize("backend", backends("pack_frame_tokens"))


def plain(fine: torch.Tensor, coarse: torch.Tensor, key_index: torch.Tensor):
    parts, lengths = [], [0]
    for t in range(len(coarse)):
        frame = [*(fine[i] for i, key in enumerate(key_index.tolist()) if key == t), coarse[t]]
        parts.append(torch.cat(frame))
        lengths.append(len(parts[-1]))
    return torch.cat(parts), torch.tensor(lengths).cumsum(0)


@every_backend
@pytest.mark.parametrize(
    ("T", "F", "key_index"),
    [(1, 3, [0]), (1, 3, []), (6, 4, [4, 0, 2]), (5, 1, [0, 1, 2, 3, 4]), (7, 0, [3]), (50, 38, [49, 0, 7, 48])],
)
def test_equals_the_definition_with_its_gradient(backend: str, T: int, F: int, key_index: list[int]) -> None:
    key = torch.tensor(key_index, dtype=torch.int64)
    fine, coarse = torch.randn(len(key), F, 5), torch.randn(T, 2, 5)
    assert_same_bits(pack_frame_tokens(fine, coarse, key, backend=backend), plain(fine, coarse, key))
    assert_same_bits(
        gradients(lambda f, c: pack_frame_tokens(f, c, key, backend=backend), (fine, coarse)),
        [
            g if g is not None else torch.zeros_like(fine)
            for g in gradients(lambda f, c: plain(f, c, key), (fine, coarse))
        ],
    )


def test_gradcheck() -> None:
    fine = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    key = torch.tensor([3, 1])
    assert gradcheck(lambda f, c: pack_frame_tokens(f, c, key)[0], (fine, coarse))
    assert gradcheck(lambda c: pack_frame_tokens(fine.detach(), c, key)[0], (coarse,))


@every_backend
@pytest.mark.parametrize("wanted", [0, 1])
def test_gradient_of_one_alone(backend: str, wanted: int) -> None:
    inputs = [torch.randn(2, 3, 5), torch.randn(4, 2, 5)]
    inputs[wanted].requires_grad_()
    tokens, _ = pack_frame_tokens(*inputs, torch.tensor([3, 1]), backend=backend)
    (grad,) = torch.autograd.grad((tokens * 2).sum(), inputs[wanted])
    assert grad.shape == inputs[wanted].shape and (grad == 2).all()


@every_backend
def test_floats_are_promoted(backend: str) -> None:
    fine, coarse = torch.randn(1, 2, 3).bfloat16().requires_grad_(), torch.randn(4, 2, 3)
    tokens, cu_frames = pack_frame_tokens(fine, coarse, torch.tensor([1]), backend=backend)
    assert tokens.dtype == torch.float32 and cu_frames.tolist() == [0, 2, 6, 8, 10]
    assert torch.autograd.grad(tokens.sum(), fine)[0].dtype == torch.bfloat16


def test_shape_is_known_without_looking_at_key_index() -> None:
    """No host synchronisation and no data-dependent shape: everything runs on tensors without values."""
    with torch.device("meta"):
        fine, coarse, key = torch.empty(3, 4, 5), torch.empty(9, 2, 5), torch.empty(3, dtype=torch.int64)
    from dynfocus_ops import reference

    tokens, cu_frames = reference.pack_frame_tokens(fine, coarse, key)
    assert tokens.shape == (30, 5) and cu_frames.shape == (10,)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"fine has shape \[3, 5\], it must be \[K, F, D\]", {"fine": torch.zeros(3, 5)}),
        (
            ValueError,
            r"coarse has shape \[9, 2, 4\], it must be \[T, 2, D\] with D of fine",
            {"coarse": torch.zeros(9, 2, 4)},
        ),
        (ValueError, r"coarse has shape \[9, 3, 5\], it must be \[T, 2, D\]", {"coarse": torch.zeros(9, 3, 5)}),
        (ValueError, r"key_index has shape \[2\], it must be \[K\] of fine", {"key_index": torch.tensor([1, 2])}),
        (
            ValueError,
            r"key_index has values from 0 to 9, they must be in \[0, 9\)",
            {"key_index": torch.tensor([0, 9, 3])},
        ),
        (ValueError, r"key_index is \[0, 3, 3\], it must not repeat a frame", {"key_index": torch.tensor([0, 3, 3])}),
        (TypeError, r"key_index is torch.float32, it must be torch.int64", {"key_index": torch.zeros(3)}),
    ],
)
def test_errors_name_the_argument(error: type, message: str, arguments: dict) -> None:
    ordinary = {"fine": torch.zeros(3, 4, 5), "coarse": torch.zeros(9, 2, 5), "key_index": torch.tensor([0, 4, 2])}
    with pytest.raises(error, match=message):
        pack_frame_tokens(**{**ordinary, **arguments})
