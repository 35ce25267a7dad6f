"""The estimators of the selection's gradient: how they are measured, and that the page is what was measured."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from benchmarks import estimators
from benchmarks.estimator_variance import KEPT, claims, load, main, of, over_ours, page
from benchmarks.estimators import CASES, ESTIMATORS, NUM_SAMPLES, SIGMA, SWEEP, Case, compared, measured, plain

DOCS = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2])) / "docs"


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return load(KEPT)


def test_the_page_is_what_was_measured(kept: dict[str, Any]) -> None:
    assert (DOCS / "selection-gradient.md").read_text() == page(kept)


def test_every_case_was_measured(kept: dict[str, Any]) -> None:
    found = [Case(case["length"], case["k"], case["scores"], case["gradient"]) for case in kept["cases"]]
    assert found == CASES
    for case in kept["cases"]:
        assert of(case).keys() == ESTIMATORS.keys()


def test_what_the_page_says_in_words_is_in_the_numbers(kept: dict[str, Any]) -> None:
    cases = kept["cases"]
    assert sum(case["correlation_of_pairs"] < 0.01 for case in cases) >= 0.9 * len(cases)
    assert sum(over_ours(case, "antithetic") < 1 for case in cases) <= 0.1 * len(cases)
    for case in cases:
        found = of(case)
        for name in ("plain", "leave-one-out", "antithetic"):
            assert abs(found[name]["bias_squared"]) < 0.01 * found[name]["variance"]
        assert over_ours(case, "plain") == pytest.approx(1 + case["mean_squared_over_variance"], rel=0.3)
        assert over_ours(case, "antithetic") == pytest.approx(1 - case["correlation_of_pairs"], rel=0.1)
    (swept,) = (case for case in cases if len(case["estimates"]) > len(ESTIMATORS))
    times_n = [n * of(swept, n)["leave-one-out"]["relative_error"] for n in SWEEP]
    assert max(times_n) < 1.1 * min(times_n)


def test_the_page_and_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(KEPT), "--out", str(tmp_path / "docs")])
    assert "](selection-gradient.png)" in (tmp_path / "docs" / "selection-gradient.md").read_text()
    assert (tmp_path / "docs" / "selection-gradient.png").read_bytes().startswith(b"\x89PNG")
    (other := tmp_path / "other.json").write_text('{"benchmarks": []}')
    with pytest.raises(SystemExit, match=r"benchmarks.estimator_variance: .*other.json must be the JSON that"):
        main([str(other)])


def test_claims_follow_the_numbers(kept: dict[str, Any]) -> None:
    case = dict(kept["cases"][0])
    case["estimates"] = [
        found | {"relative_error": 7.0 if found["estimator"] == "antithetic" else 2.0} for found in case["estimates"]
    ]
    said = claims([case])
    assert "Plain has 1.00 to 1.00 times" in said[0]
    assert "antithetic has 3.50 to 3.50 times the error of leave-one-out, less in 0 of 1 cases" in said[1]


def test_plain_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "NUMBERS", 2 * 30 * 5)  # two of three repetitions at a time
    scores, G = torch.rand(5), torch.randn(2, 5)
    generator = Generator().manual_seed(7)
    noise = torch.cat([torch.randn(rows, 30, 5, generator=generator) for rows in (2, 1)])
    expected = torch.zeros(3, 5)
    for repetition in range(3):
        for z in noise[repetition]:
            perturbed = (scores + SIGMA * z).tolist()
            first, second = sorted(sorted(range(5), key=lambda i, perturbed=perturbed: -perturbed[i])[:2])
            expected[repetition] += (G[0, first] + G[1, second]) * z / (30 * SIGMA)
    torch.testing.assert_close(plain(scores.expand(3, -1), G, 30, Generator().manual_seed(7)), expected)


def test_variance_and_bias_are_told_apart() -> None:
    reference = torch.tensor([3.0, 4.0], dtype=torch.float64)
    noise = torch.randn(100_000, 2, generator=Generator().manual_seed(0)).double()
    found = compared(1.2 * reference + 0.5 * noise, reference)
    assert found["variance"] == pytest.approx(2 * 0.25 / 25, rel=0.02)
    assert found["bias_squared"] == pytest.approx(0.2**2, rel=0.02)
    assert found["relative_error"] == pytest.approx(found["variance"] + found["bias_squared"], rel=1e-3)
    assert found["standard_error"] < 0.01 * found["relative_error"]
    assert compared((2 * reference).expand(3, -1), reference)["cosine"] == 1


def test_measuring_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """In closed form: for L = 2, K = 1, G = (1, 0), w says if the first is chosen and E[w]² / Var[w] = p / (1 − p)."""
    monkeypatch.setattr(estimators, "REFERENCE_SAMPLES", 400_000)
    monkeypatch.setattr(estimators, "REPETITIONS", 200)

    def draw(_: Case) -> tuple[Tensor, Tensor]:
        return torch.tensor([0.1, 0.0]), torch.tensor([[1.0, 0.0]])

    monkeypatch.setattr(Case, "draw", draw)
    case = measured(Case(2, 1, "uniform", "independent"))
    p = torch.distributions.Normal(0, SIGMA * 2**0.5).cdf(torch.tensor(0.1)).item()
    assert case["mean_squared_over_variance"] == pytest.approx(p / (1 - p), rel=0.05)
    # Z and −Z never both push the first out, so that the covariance is −(1 − p)².
    assert case["correlation_of_pairs"] == pytest.approx(-(1 - p) / p, rel=0.05)
    assert case["reference_error"] < 1e-3
    assert of(case)["leave-one-out"]["relative_error"] < 0.05
    assert {found["num_samples"] for found in case["estimates"]} == {NUM_SAMPLES}


def test_cases_have_a_gradient_to_estimate() -> None:
    for case in CASES:
        scores, gradient = case.draw()
        assert scores.shape == (case.length,) and gradient.shape == (case.k, case.length)
        assert scores.min() >= 0 and scores.max() <= 1
        ordered = scores.sort(descending=True).values
        assert ordered[case.k - 1] - ordered[case.k] < 2 * SIGMA  # else noise changes nothing
