"""The tables of docs/dropin from a run."""

import os
from pathlib import Path

import pytest

from benchmarks.dropin_pages import PLACE, fill, main
from benchmarks.report import RESULTS
from benchmarks.results import load

from .documents import read_run, write_run

DOCS = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2])) / "docs" / "dropin"
TIMES = {
    ("dropin", "hot-64x243x512-81-k2-fp32"): {"ours": [0.01, 0.02, 0.02], "research": [0.2, 0.2, 0.2]},
    ("dropin_frames", "varlen-32x35..178x3584-bf16"): {
        "ours": [0.02],
        "ours, a call each": [0.05],
        "research, a call each": [0.1],
    },
    ("dpc_knn", "64x243x512-81-k2-fp32"): {"ours": [0.01], "research": [0.3]},
}
PAGE = "# HoT\n\n<!-- measured: hot -->\nNot measured yet.\n<!-- /measured -->\n\nAfter.\n"


def test_a_place_is_filled_and_filled_again(tmp_path: Path) -> None:
    run = read_run(tmp_path / "run.json", TIMES)
    filled = fill(PAGE, run)
    assert "| someone | 64×243×512, 81, k 2, fp32 | 200 ms | **20.0 ms** | 10.0 × | 1.00 MB | 1.00 MB |" in filled
    assert "commit 0123456789ab" in filled and "Not measured" not in filled
    assert filled.startswith("# HoT\n\n<!-- measured: hot -->\n") and filled.endswith("<!-- /measured -->\n\nAfter.\n")
    assert fill(filled, run) == filled


def test_every_way_of_ours_has_a_row(tmp_path: Path) -> None:
    filled = fill(PAGE.replace("hot", "varlen"), read_run(tmp_path / "run.json", TIMES))
    assert "| someone | 32×35…178×3584, bf16 | 100 ms | **20.0 ms** | 5.00 × |" in filled
    assert "| someone, a call each | 32×35…178×3584, bf16 | 100 ms | **50.0 ms** | 2.00 × |" in filled


def test_a_page_of_which_the_run_has_nothing_stays(tmp_path: Path) -> None:
    page = PAGE.replace("hot", "tcformer")
    assert fill(page, read_run(tmp_path / "run.json", TIMES)) == page


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hot.md").write_text(PAGE)
    (tmp_path / "other.md").write_text("# Other\n")
    main([str(write_run(tmp_path / "run.json", TIMES)), "--pages", str(tmp_path)])
    assert "10.0 ×" in (tmp_path / "hot.md").read_text()
    assert capsys.readouterr().out == f"{tmp_path / 'hot.md'}\n"
    with pytest.raises(SystemExit, match=r"benchmarks.dropin_pages: .*gone.json"):
        main([str(tmp_path / "gone.json"), "--pages", str(tmp_path)])


def test_each_page_has_a_place_of_its_own_name() -> None:
    for page in DOCS.glob("*.md"):
        if page.name != "README.md":
            assert [place[2] for place in PLACE.finditer(page.read_text())] == [page.stem]


def test_the_pages_show_the_kept_run() -> None:
    run = load(RESULTS / "amd-epyc-zen4-one-core-drop-ins.json")
    for page in DOCS.glob("*.md"):
        assert fill(page.read_text(), run) == page.read_text(), page.name
