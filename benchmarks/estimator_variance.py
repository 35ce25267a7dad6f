"""`python -m benchmarks.estimator_variance [JSON] [--out docs]`: how well samples estimate the selection's gradient.

Measures (a minute or two on one thread; seeds are fixed), keeps benchmarks/results/estimator-variance.json and writes a
Markdown page with its plot; given the JSON of an earlier measurement, only the page.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.estimator_plots import draw
from benchmarks.estimators import ESTIMATORS, NUM_SAMPLES, PAPER, measure
from benchmarks.report import RESULTS
from benchmarks.tables import significant, table

KEPT = RESULTS / "estimator-variance.json"
PLOT = "selection-gradient.png"
Estimates = dict[str, dict[str, Any]]  # by estimator


def of(case: dict[str, Any], num_samples: int = NUM_SAMPLES) -> Estimates:
    return {found["estimator"]: found for found in case["estimates"] if found["num_samples"] == num_samples}


def page(document: dict[str, Any]) -> str:
    cases = document["cases"]
    swept = max(cases, key=lambda case: len(case["estimates"]))
    numbers = sorted({found["num_samples"] for found in swept["estimates"]})
    uncertain = [found["standard_error"] / found["relative_error"] for case in cases for found in case["estimates"]]
    parts = [
        "# How well samples estimate the gradient of the selection",
        "<!-- Made by python -m benchmarks.estimator_variance: change that, not this. -->",
        "The scorer learns through the perturbed top-K (`dynfocus_ops.perturbed_topk`). Where G is the gradient of its "
        "K × L indicators P, that of the scores is g = E[w Z] / σ with w = ⟨G, P(s + σZ)⟩; n samples of Z estimate it. "
        f"Here σ = {document['sigma']}, scores lie on [0, 1], as in the connector, and n = {NUM_SAMPLES}, its default, "
        "where nothing else is said.",
        "- **plain**: Σ w_s Z_s / (n σ).\n"
        "- **leave-one-out**: from each w_s the mean of the others' is taken. `perturbed_topk`'s default, and the "
        "connector's.\n"
        "- **antithetic**: `antithetic=True`, pairs Z and −Z with weights ±(w(Z) − w(−Z)) / 2. What a baseline takes "
        "from both weights of a pair cancels: with one on top it is the same estimator.\n"
        '- **diagonal**: `grad="diagonal"`, the released code\'s. Each score gets what its own indicators say, and '
        "nothing of what it displaces: not g, however many samples.",
        f"Relative error is E‖ĝ − g‖² / ‖g‖² over {document['repetitions']} repetitions, the sum of variance and "
        "bias²; a gradient of zeros has 1. In brackets the mean cosine of ĝ and g. g is the mean over "
        f"{document['reference_samples']:,} other samples, whose own relative error is at most "
        f"{max(case['reference_error'] for case in cases):.1g}. The standard error of a relative error is at most "
        f"{max(uncertain):.0%} of it.",
        "Scores: *evenly spread* in random order; *uniform*, drawn and scaled to [0, 1]; *two tight groups*, three in "
        "five within 0.05 of 1, the others of 0. G: *independent* normal numbers; *prototypes alike*, ⟨a_j, m_l⟩ with "
        "random a_j and prototypes m_l whose cosines are about 0.8; *same in every place*, c_l for all j, as if only "
        "which events are chosen counted. One draw of scores and G for each case.",
        f"![Relative errors in every case, and over the number of samples]({PLOT})",
        f"## With {NUM_SAMPLES} samples",
        table(["L, K", "scores", "G", *ESTIMATORS], [[*name(case), *cells(of(case))] for case in cases]),
        "## Where the differences come from",
        "How many times the error of leave-one-out plain and antithetic have, beside what the weights foretell: the "
        "mean of w adds E[w]² / Var[w] to a variance of 1, and pairs have that of as many single samples times 1 − ρ, "
        "where ρ is the correlation of w(Z) and w(−Z).",
        table(
            ["L, K", "scores", "G", "plain", "1 + E[w]² / Var[w]", "antithetic", "1 − ρ"],
            [[*name(case), *map(significant, foretold(case))] for case in cases],
        ),
        "## Over the number of samples",
        f"L = {swept['length']}, K = {swept['k']}, {swept['scores']} scores, {swept['gradient']} G.",
        table(["n", *ESTIMATORS], [[f"{n:,}", *cells(of(swept, n))] for n in numbers]),
        "## What the numbers show",
        "\n".join(f"- {claim}" for claim in claims(cases)),
        "## Again",
        "```sh\npython -m benchmarks.estimator_variance    # measures, keeps its JSON, writes this page and plot\n```",
    ]
    return "\n\n".join(parts) + "\n"


def name(case: dict[str, Any]) -> list[str]:
    return [f"{case['length']}, {case['k']}", case["scores"], case["gradient"]]


def cells(estimates: Estimates) -> list[str]:
    """The diagonal's error is that of its direction, and is shown as variance + bias²."""
    shown = []
    for estimator in ESTIMATORS:
        found = estimates[estimator]
        error = significant(found["relative_error"])
        if estimator == "diagonal":
            error += f" = {significant(found['variance'])} + {significant(found['bias_squared'])}"
        shown.append(f"{error} ({found['cosine']:.2f})".replace("-", "−"))
    return shown


def foretold(case: dict[str, Any]) -> list[float]:
    plain, pairs = (over_ours(case, estimator) for estimator in ("plain", "antithetic"))
    return [plain, 1 + case["mean_squared_over_variance"], pairs, 1 - case["correlation_of_pairs"]]


def claims(cases: list[dict[str, Any]]) -> list[str]:
    paper = [of(case) for case in cases if (case["length"], case["k"]) == PAPER]
    length = max(case["length"] for case in cases)
    longest = [of(case) for case in cases if case["length"] == length]
    pairs = [over_ours(case, "antithetic") for case in cases]
    steadier = sum(found["diagonal"]["variance"] < found["leave-one-out"]["variance"] for found in map(of, cases))
    nearer = sum(found["diagonal"]["cosine"] > found["leave-one-out"]["cosine"] for found in longest)
    return [
        f"**The baseline pays.** Plain has {span(over_ours(case, 'plain') for case in cases)} times the error of "
        "leave-one-out, about 1 + E[w]² / Var[w]: the mean of w says nothing about the scores but multiplies their "
        "noise, and G may make it as large as it likes.",
        f"**Pairs do not.** With the same n antithetic has {span(pairs)} times the error of leave-one-out, less in "
        f"{sum(ratio < 1 for ratio in pairs)} of {len(pairs)} cases, about 1 − ρ. What Z lifts into the top K, −Z "
        "pushes out, so that ρ is negative nearly everywhere, where pairs would need it positive. A pair draws half "
        "the noise of two samples but chooses twice all the same. The default is therefore leave-one-out alone.",
        f"**{NUM_SAMPLES} samples** of leave-one-out give errors of {errors(paper, 'leave-one-out')} and cosines of "
        f"{cosines(paper, 'leave-one-out')} at the paper's L = {PAPER[0]}, K = {PAPER[1]}, but errors of "
        f"{errors(longest, 'leave-one-out')} and cosines of {cosines(longest, 'leave-one-out')} at L = {length}. "
        "Errors fall as 1 / n, and there is noise for every score: with more events raise `num_samples`.",
        f"**The diagonal is biased.** At the paper's shape its cosine is {cosines(paper, 'diagonal')} and its bias² "
        f"{span(found['diagonal']['bias_squared'] for found in paper)}, whatever n. It varies less in {steadier} of "
        f"{len(cases)} cases, and at L = {length}, where {NUM_SAMPLES} samples of the whole gradient are mostly noise, "
        f"one estimate of it points nearer to g in {nearer} of {len(longest)}. Over the steps of a training run noise "
        "averages out, a bias does not.",
    ]


def over_ours(case: dict[str, Any], estimator: str) -> float:
    found = of(case)
    return found[estimator]["relative_error"] / found["leave-one-out"]["relative_error"]


def errors(found: list[Estimates], estimator: str) -> str:
    return span(estimates[estimator]["relative_error"] for estimates in found)


def cosines(found: list[Estimates], estimator: str) -> str:
    return span(estimates[estimator]["cosine"] for estimates in found)


def span(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{significant(ordered[0])} to {significant(ordered[-1])}".replace("-", "−")


def load(path: Path) -> dict[str, Any]:
    """Raises:
    ValueError: the JSON is not of a measurement of estimators.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    if not document.get("cases"):
        raise ValueError(f"{path} must be the JSON that python -m benchmarks.estimator_variance keeps, and is not")
    return document


def compact(document: dict[str, Any]) -> str:
    """JSON with a line a case."""
    lines = ",\n".join(json.dumps(case) for case in document["cases"])
    head = json.dumps({key: value for key, value in document.items() if key != "cases"})
    return f'{head[:-1]}, "cases": [\n{lines}\n]}}\n'


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimator_variance", description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", help="of an earlier measurement: nothing is measured")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and its plot (docs)")
    options = parser.parse_args(arguments)
    if options.json is None:
        KEPT.write_text(compact(measure()))
    try:
        document = load(options.json or KEPT)
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks.estimator_variance: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    draw(document, NUM_SAMPLES, options.out / PLOT)
    (options.out / "selection-gradient.md").write_text(page(document))
    print(f"The page is {options.out / 'selection-gradient.md'}.")


if __name__ == "__main__":
    main()
