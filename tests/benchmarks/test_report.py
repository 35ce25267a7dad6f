import os
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import RESULTS, main
from benchmarks.results import load
from benchmarks.tables import duration, growth_exponent, size, targets_table
from benchmarks.targets import GROWTH
from tests.benchmarks.documents import Times, read_run, write_run

DOCS = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2])) / "docs"
PEERS = {
    "research": [2.0, 2.2],
    "compiled, top-k": [0.5, 0.5],
    "floor: product": [0.3, 0.3],
    "floor: fresh copy": [0.1, 0.1],
}
TIMES: Times = {
    ("dpc_knn", "4x4096x1024-64-k5-fp32"): {"ours": [0.4, 0.4], **PEERS},
    **{
        (GROWTH, f"1x{n}x64-64-k5-fp32"): {"ours": [n**2 * 1e-9], "research": [n**2 * 1e-8]}
        for n in (1024, 4096, 16384)
    },
    **{("connector", f"t{t}-fp32"): {"ours": [t * 1e-3], "research ops": [t * 1e-2]} for t in (64, 256, 1000)},
    ("machine_matmul", "2048x2048-fp32"): {"fp32": [0.1], "bf16": [0.05]},
    ("machine_copy", "8192x8192-fp32"): {"fresh": [0.1], "warm": [0.02]},
}
PARTS = {"spatial_prototypes": 0.6, "projectors": 0.3, "rest": 0.1}


def test_the_page_and_its_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run.json", TIMES, parts=PARTS)
    path.with_suffix(".md").write_text("The top-k of four rows at a time is slow.")
    main([str(path), "--out", str(tmp_path / "docs"), "--keep", str(tmp_path / "kept.json")])
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "commit 0123456789ab" in text
    assert "KeOps is left out: ModuleNotFoundError" in text
    assert "The top-k of four rows at a time is slow." in text
    assert "missed: dpc_knn 4x4096x1024-64-k5-fp32: 1.25, must be ≥ 2 × compiled" in capsys.readouterr().out
    for name in ("speedup", "roofline", "scaling", "connector"):
        assert f"](benchmarks-{name}.png)" in text
        assert (tmp_path / "docs" / f"benchmarks-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert load(tmp_path / "kept.json").cases.keys() == TIMES.keys()


def test_the_page_shows_the_kept_run_and_what_is_known_of_its_misses(tmp_path: Path) -> None:
    main([str(RESULTS / "amd-epyc-zen4-2-cores.json"), "--out", str(tmp_path)])
    assert (tmp_path / "benchmarks.md").read_text() == (DOCS / "benchmarks.md").read_text()


def test_a_row_against_its_targets(tmp_path: Path) -> None:
    row = targets_table(read_run(tmp_path / "run.json", TIMES, parts=PARTS)).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "`dpc_knn` 4×4096×1024, 64, k 5, fp32",
        "**400 ms**",
        "5.25 ×",
        "1.25 ×",
        "300 ms",
        "75%",
        "≤ 1.6 × floor: held (1.33)<br>≥ 2 × compiled: **missed**",
        "≤ 1.25 × floor: not yet (1.33)",
    ]


def test_a_run_of_one_op_has_a_page_too(tmp_path: Path) -> None:
    times = {("rods_pool", "64x22x1408-q32-bf16"): {"ours": [1.0], "vectorised": [2.0]}}
    main([str(write_run(tmp_path / "run.json", times)), "--out", str(tmp_path)])
    text = (tmp_path / "benchmarks.md").read_text()
    assert "### rods_pool" in text
    assert ".png" not in text
    assert "Not in this run." in text


def test_a_run_in_which_ours_was_refused_has_a_page_too(tmp_path: Path) -> None:
    times = {key: {name: seconds for name, seconds in peers.items() if name != "ours"} for key, peers in TIMES.items()}
    main([str(write_run(tmp_path / "run.json", times)), "--out", str(tmp_path)])
    assert "| 4×4096×1024, 64, k 5, fp32<br>someone | compiled, top-k |" in (tmp_path / "benchmarks.md").read_text()


def test_growth_is_the_power_of_n(tmp_path: Path) -> None:
    assert growth_exponent(read_run(tmp_path / "run.json", TIMES, parts=PARTS)) == pytest.approx(2)


def test_another_file_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks.report: .*missing.json"):
        main([str(tmp_path / "missing.json"), "--out", str(tmp_path)])


def test_the_newest_is_sought_among_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run.json", TIMES)
    (tmp_path / "another-measurement.json").write_text('{"cases": []}')
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.newest() == run
    run.unlink()
    with pytest.raises(SystemExit, match=r"benchmarks.report: no JSON given, and none of a run in"):
        report.newest()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.345, "2.35 s"), (0.0561, "56.1 ms"), (0.4, "400 ms"), (0.000245, "245 µs"), (5e-8, "0.05 µs")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(16_000_000, "16.0 MB"), (17_000_000_000, "17.0 GB"), (1000, "0.00 MB")])
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text
