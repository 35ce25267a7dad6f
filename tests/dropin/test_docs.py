"""Every Python block of docs/dropin runs as it stands, with stand-ins in the place of the projects' modules."""

import os
import re
import sys
import types
from pathlib import Path

import pytest

from dynfocus_ops import dropin

from .forms import peer

# In the wheel's test run this folder is a copy, and the repository is where DYNFOCUS_SOURCE says.
DOCS = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2])) / "docs" / "dropin"
PAGES = sorted(DOCS.glob("*.md"))
MODULES = {
    "tcformer_module.tcformer_utils": "tcformer",
    "ChatUniVi.model.cluster": "chat_univi",
    "HBI.models.cluster": "hbi",
    "models.pllava.modeling_pllava": "prunevid",
    "llmc.compression.token_reduction.prunevid": "prunevid",
    "llmc.compression.token_reduction.sparsevlm": "lightcompress",
    "opencood.models.sub_modules.cluster": "ermvp",
    "llamavid.model.language_model.llava_llama_vid": "dynfocus",
    "holitom.llava_arch": "holitom",
    "model.mixste.hot_mixste": "hot",
    "flashvid.utils": "flashvid",
    "llava.model.language_model.utils": "sparsevlm",
    "cluster_utils": "missrec",
}


def add_module(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, name, module)
    package, _, last = name.rpartition(".")
    if package:
        if package not in sys.modules:
            add_module(monkeypatch, package, types.ModuleType(package))
        monkeypatch.setattr(sys.modules[package], last, module, raising=False)


def test_a_page_for_each_dialect():
    from dynfocus_ops.dropin.dialects import DIALECTS

    assert {page.stem for page in PAGES} >= set(DIALECTS)
    index = (DOCS / "README.md").read_text()
    assert all(f"({page.name})" in index for page in PAGES if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page, monkeypatch):
    for name, dialect in MODULES.items():
        add_module(monkeypatch, name, peer(dialect))
    patches, patch = [], dropin.patch

    def remembered(*args):
        patches.append(patch(*args))
        return patches[-1]

    monkeypatch.setattr(dropin, "patch", remembered)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    namespace = {}
    try:
        for block in blocks:
            for done in patches:
                done.restore()  # as each block of the index starts from an unpatched project
            exec(compile(block, str(page), "exec"), namespace)
        assert all(done.replaced for done in patches)
    finally:
        for done in patches:
            done.restore()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_varlen_gives_what_a_call_each_gives():
    import torch

    namespace = {}
    block = re.findall(r"```python\n(.*?)```", (DOCS / "varlen.md").read_text(), re.DOTALL)[0]
    exec(compile(block, "varlen.md", "exec"), namespace)
    frames = [torch.randn(n, 64) for n in (35, 178, 7, 90)]
    clusters = [7, 30, 3, 9]
    neighbors = [min(c, 7) for c in clusters]
    torch.manual_seed(11)
    tokens, centers = namespace["cluster_frames"](frames, clusters, neighbors)
    torch.manual_seed(11)
    expected, expected_centers, start = [], [], 0
    for frame, num, k in zip(frames, clusters, neighbors, strict=True):
        labels, own = peer("flashvid").dpc_knn(frame[None], num, k)
        expected += [frame[labels[0] == c].mean(0) for c in range(num)]
        expected_centers.append(own[0] + start)
        start += len(frame)
    torch.testing.assert_close(tokens, torch.stack(expected))
    assert torch.equal(centers, torch.cat(expected_centers))
