"""The ablation: every variant can be trained and examined, and the page says what the runs' files say."""

import json
import os
from pathlib import Path
from statistics import mean

import pytest

import benchmarks.ablation.__main__ as ablation
from benchmarks.ablation.__main__ import RESULTS, result_file, run
from benchmarks.ablation.report import page, spread
from benchmarks.ablation.runs import accuracy, load_runs
from benchmarks.ablation.variants import BASE, VARIANTS, variant
from dynfocus.demo.questions import KINDS
from dynfocus.demo.train import TrainingSettings, prepare, stage
from dynfocus.training.run import model_config

SHORT = ("log_every=1", "schedule.steps=1", "schedule.global_batch_size=2", "schedule.batch_size=2")
# A key frame has 16 + 16 + 6 tokens, any frame 2. All others have the base's number of tokens.
TOKENS = {
    **{"0/38": 6 * 38, "2/0": 64 * 2, "2/2": 64 * 2 + 6 * 2, "2/all": 64 * 2 + 6 * (16 + 144)},
    **{"uniform": 9 * (38 + 2), "K 3": 64 * 2 + 3 * 38, "K 13": 64 * 2 + 13 * 38},
}
DOCS = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2])) / "docs"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    settings = TrainingSettings(num_videos=2, num_clips=2, tower_steps=1, threads=1, changes=SHORT)
    prepare(folder, 0, settings, before=ablation.STAGE)
    return folder


@pytest.mark.parametrize("each", VARIANTS, ids=lambda each: each.name)
def test_a_variant_differs_in_the_connector_and_the_frames_it_sees_alone(each, work):
    recipe, base = stage(ablation.STAGE, work, each.changes), stage(ablation.STAGE, work)
    assert recipe.learning_rates == base.learning_rates and recipe.schedule == base.schedule
    plan = model_config(recipe).connector_settings().plan(recipe.data.num_frames or 64)
    assert plan.num_tokens == TOKENS.get(each.name, 64 * 2 + 6 * 38)


@pytest.mark.parametrize("name", [BASE, "0/38", "2/0", "uniform", "frame queries"])
def test_a_run_is_trained_and_examined(name, work, tmp_path):
    run(name, 1, work, tmp_path, videos=2, shorter=SHORT)
    found = json.loads(result_file(tmp_path, name, 1).read_text())
    assert (found["variant"], found["seed"], found["asked"]) == (name, 1, 2)
    assert found["tokens"] == TOKENS.get(name, 64 * 2 + 6 * 38)
    assert set(found["right"]) == set(KINDS) and all(0 <= right <= 2 for right in found["right"].values())
    assert found["losses"][-1][0] == 1 and found["train_seconds"] > 0
    shares = found["small_things_seen_closely"]
    assert shares is None if name == "2/0" else 0 <= shares <= 1


def test_a_trained_run_is_only_examined_again(work, tmp_path, monkeypatch):
    run("random", 2, work, tmp_path, videos=2, shorter=SHORT)
    file = result_file(tmp_path, "random", 2)
    before = file.read_text()
    file.unlink()
    monkeypatch.setattr(ablation, "train", lambda *args, **kwargs: pytest.fail("trained before"))
    run("random", 2, work, tmp_path, videos=2, shorter=SHORT)
    assert file.read_text() == before


def made_up(name, seed, right):
    return {
        "changes": list(variant(name).changes),
        **{"variant": name, "seed": seed, "steps": 4, "batch": 2, "train_seconds": 60.0, "asked": 10, "tokens": 356},
        **{"right": dict.fromkeys(KINDS, right), "blind": dict.fromkeys(KINDS, 2)},
        "small_things_seen_closely": 0.25,
    }


def test_means_and_spreads():
    assert accuracy(made_up(BASE, 0, 7)) == pytest.approx(70)
    assert accuracy(made_up(BASE, 0, 7), ["count"], "blind") == pytest.approx(20)
    assert spread([61.0, 63.0]) == "62.0 ± 1.4" and spread([61.0]) == "61.0"
    others = {each.name: [made_up(each.name, 0, 5)] for each in VARIANTS}
    text = page({**others, BASE: [made_up(BASE, 0, 7), made_up(BASE, 1, 9)]})
    assert "| 2/40 | rods and cones | 356 | 80.0 ± 14.1 |" in text
    assert "| k-means | events by k-means | 356 | 50.0 | 50.0 | 50.0 | 50.0 | 25 % | 1.0 | 1 |" in text


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"variant": "2/41"}, "which no variant is"),
        ({"changes": []}, "which no variant is"),
        ({"steps": 5}, "not compar"),
    ],
)
def test_only_comparable_runs_share_a_page(change, reason, tmp_path):
    result_file(tmp_path, BASE, 0).write_text(json.dumps(made_up(BASE, 0, 7)))
    result_file(tmp_path, "0/38", 0).write_text(json.dumps(made_up("0/38", 0, 7)))
    assert list(load_runs(tmp_path)) == [BASE, "0/38"]
    result_file(tmp_path, "0/38", 0).write_text(json.dumps({**made_up("0/38", 0, 7), **change}))
    with pytest.raises(ValueError, match=reason):
        load_runs(tmp_path)


def test_the_page_says_what_the_results_say():
    assert (DOCS / "ablation.md").read_text(encoding="utf-8") == page(load_runs(RESULTS))


def test_the_page_claims_what_the_runs_say():
    runs = load_runs(RESULTS)

    def all_of(name, *kinds):
        return [accuracy(run, kinds or KINDS) for run in runs[name]]

    first_rank = [each.name for each in VARIANTS if each.first_rank]
    assert all(sorted(run["seed"] for run in runs[name]) == [0, 1, 2] for name in first_rank)
    assert all(min(all_of(BASE)) > max(all_of(name)) for name in first_rank if name != BASE)
    assert min(all_of(BASE, "number order")) > max(all_of("2/0", "number order"))
    for kind in ("shape", "order"):
        assert min(all_of(BASE, kind)) > max(all_of("0/38", kind))
    closely = {name: [run["small_things_seen_closely"] for run in runs[name]] for name in (BASE, "hard", "random")}
    assert min(closely[BASE]) > max(closely["hard"]) and min(closely["hard"]) > max(closely["random"])
    assert abs(mean(all_of("random")) - mean(all_of("2/0"))) < 1 > abs(mean(all_of("2/2")) - mean(all_of("2/0")))
    assert 0.3 < (mean(all_of("hard")) - mean(all_of("2/0"))) / (mean(all_of(BASE)) - mean(all_of("2/0"))) < 0.7
    assert min(all_of("2/0")) > max(all_of("0/38")) > max(all_of("uniform"))
    (patches,), (k13,), (base,) = runs["over patches"], runs["K 13"], runs[BASE][:1]
    assert patches["small_things_seen_closely"] == 0 and abs(accuracy(patches) - mean(all_of("2/0"))) < 1
    assert accuracy(k13) < accuracy(base)
    assert abs(k13["small_things_seen_closely"] - base["small_things_seen_closely"]) < 0.01
