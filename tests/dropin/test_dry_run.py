"""`python -m dynfocus_ops.dropin --dry-run PATH` reads a source tree, runs none of it; as a command: test_patch."""

from pathlib import Path
from textwrap import dedent

import pytest

from dynfocus_ops.dropin.__main__ import main

PEERS = Path(__file__).parent / "peers"


def lines(capsys, path):
    assert main(["--dry-run", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (
            "tcformer",
            "cluster_dpc_knn(token_dict, cluster_num, k=5, token_mask=None): may be chat_univi, tcformer, hbi",
        ),
        ("prunevid", "cluster_dpc_knn(x, cluster_num, k=5, token_mask=None): may be prunevid, lightcompress, ermvp"),
        ("ermvp", "cluster_dpc_knn(x, cluster_num, k=5): may be prunevid, lightcompress, ermvp"),
        ("hot", "cluster_dpc_knn(x, cluster_num, k, token_mask=None): may be hot"),
        ("hot", "cluster_dpc_knn_center(x, cluster_num, k, center, token_mask=None): may be hot"),
        ("flashvid", "dpc_knn(features, num_clusters, k=7, valid_token_mask=None): may be flashvid"),
        ("sparsevlm", "cluster_and_merge(x, cluster_num): may be sparsevlm, lightcompress"),
        ("dynfocus", "cluster_dpc_knn(self, vis_embed, cluster_num, k, token_mask=None): may be dynfocus"),
        ("holitom", "cluster_dpc_knn(self, x, cluster_num, k=7): may be holitom"),
        ("tcformer_layers", "imports cluster_dpc_knn from .tcformer"),
    ],
)
def test_stand_ins(capsys, file, what):
    found = [line for line in lines(capsys, PEERS) if line.startswith(f"{PEERS / file}.py:")]
    assert any(line.endswith(f": {what}") for line in found), found


def test_nothing_is_run_and_what_cannot_be_read_is_said(capsys, tmp_path):
    (tmp_path / "wild.py").write_text("raise SystemExit('imported')\ndef dpc_knn(x, device, k=0.02): ...\n")
    (tmp_path / "broken.py").write_text("def dpc_knn(:\n")
    (tmp_path / "notes.txt").write_text("def dpc_knn(x): ...\n")
    broken, wild = lines(capsys, tmp_path)
    assert broken.startswith(f"{tmp_path / 'broken.py'}:1: not read: ")
    assert wild == f"{tmp_path / 'wild.py'}:2: dpc_knn(x, device, k=0.02): has the parameters of no dialect"


def test_an_inline_copy_is_named(capsys, tmp_path):
    (tmp_path / "model.py").write_text(
        dedent("""
        def forward(self, x):
            d = torch.cdist(x, x)
            rho = (-d.topk(4, largest=False)[0] ** 2).mean(-1).exp()
            return torch.topk(rho, 7)
        """)
    )
    assert lines(capsys, tmp_path / "model.py") == [
        f"{tmp_path / 'model.py'}:2: forward: an inline copy, nothing that can be swapped"
    ]


def test_wrong_arguments(capsys, tmp_path):
    assert main(["--dry-run", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'gone'}: there is no such file or folder\n"
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert lines(capsys, tmp_path) == [f"{tmp_path}: no candidates"]
