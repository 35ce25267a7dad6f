"""The dialects: which functions each replaces, and how to call them for a comparison."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynfocus_ops.dropin import (
    chat_univi,
    dynfocus,
    ermvp,
    flashvid,
    hbi,
    holitom,
    hot,
    lightcompress,
    missrec,
    probes,
    prunevid,
    sparsevlm,
    tcformer,
)


@dataclass(frozen=True)
class Replacement:
    dialect: str
    function: Callable[..., Any]
    probes: Callable[[set[str]], list[probes.Probe]]  # given the parameters that the original has
    tolerance: float = 0.0  # how far apart values may be besides, as a share of the largest

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Those it shares with the original: all but our keyword-only `noise`."""
        every = inspect.signature(self.function).parameters.values()
        return [parameter for parameter in every if parameter.kind is not parameter.KEYWORD_ONLY]


# Of dialects that agree on every probe the first is taken; those that compute in float32 have probes for that.
REPLACEMENTS = [
    Replacement("chat_univi", chat_univi.cluster_dpc_knn, probes.also_in_bfloat16(probes.cluster_dict)),
    Replacement("chat_univi", chat_univi.merge_tokens, probes.merge_dict),
    Replacement("tcformer", tcformer.cluster_dpc_knn, probes.cluster_dict),
    Replacement("tcformer", tcformer.merge_tokens, probes.merge_dict),
    Replacement("hbi", hbi.cluster_dpc_knn, probes.cluster_dict),
    Replacement("hbi", hbi.merge_tokens, probes.merge_dict),
    Replacement("prunevid", prunevid.cluster_dpc_knn, probes.also_in_bfloat16(probes.cluster_tensor)),
    Replacement("lightcompress", lightcompress.cluster_dpc_knn, probes.also_in_bfloat16(probes.cluster_tensor)),
    Replacement("ermvp", ermvp.cluster_dpc_knn, probes.cluster_tensor),
    Replacement("ermvp", ermvp.merge_tokens, probes.merge_tensor),
    Replacement("hot", hot.cluster_dpc_knn, probes.cluster_tensor),
    Replacement("hot", hot.cluster_dpc_knn_center, probes.cluster_without_center),
    Replacement("flashvid", flashvid.dpc_knn, probes.also_in_bfloat16(probes.cluster_tensor_bool)),
    Replacement("sparsevlm", sparsevlm.cluster_and_merge, probes.cluster_and_merge),
    Replacement("lightcompress", lightcompress.cluster_and_merge, probes.cluster_and_merge),
    Replacement("missrec", missrec.cluster_dpc_knn, probes.cluster_points),
    # cdist's distances of points to themselves are not 0
    Replacement("holitom", holitom.cluster_dpc_knn, probes.also_in_bfloat16(probes.cluster_tensor), tolerance=1e-3),
    Replacement("holitom", holitom.merge_tokens_by_clustering, probes.merge_by_clustering),
    Replacement("holitom", holitom.merge_tokens_by_density, probes.merge_by_density),
    Replacement("dynfocus", dynfocus.cluster_dpc_knn, probes.cluster_tensor),
    Replacement("dynfocus", dynfocus.merge_tokens, probes.merge_tensor),
]
DIALECTS = sorted({replacement.dialect for replacement in REPLACEMENTS})
NAMES = {replacement.name for replacement in REPLACEMENTS}
