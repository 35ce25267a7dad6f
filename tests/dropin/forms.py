"""Each dialect's clustering as one function of (module, x, clusters, neighbours, mask) -> (labels, centres or None)."""

from importlib import import_module

import torch


def ours(dialect):
    return import_module(f"dynfocus_ops.dropin.{dialect}")


def peer(dialect):
    return import_module(f"tests.dropin.peers.{dialect}")


def dictionary(module, x, num, k, mask=None, **kw):
    labels, number = module.cluster_dpc_knn({"x": x}, num, k, token_mask=mask, **kw)
    assert number == num
    return labels, None


def tensor(module, x, num, k, mask=None, **kw):
    labels, number = module.cluster_dpc_knn(x, num, k, *(() if mask is None else (mask,)), **kw)
    assert number == num
    return labels, None


def hot(module, x, num, k, mask=None, **kw):
    centers, labels = module.cluster_dpc_knn(x, num, k, mask, **kw)
    return labels, centers


def flashvid(module, x, num, k, mask=None, **kw):
    return module.dpc_knn(x, num, k, None if mask is None else mask.bool(), **kw)


def dynfocus(module, x, num, k, mask=None, **kw):
    self = None
    if hasattr(module, "Merger"):
        module = module.Merger
        self = module.__new__(module)  # without drawing weights
    labels, number = module.cluster_dpc_knn(self, x, num, k, mask, **kw)
    assert number == num
    return labels, None


def holitom(module, x, num, k, mask=None, **kw):
    centers, distance = getattr(module, "Model", module).cluster_dpc_knn(None, x, num, k, **kw)
    assert distance.shape == (len(x), x.shape[1], x.shape[1]) and distance.dtype == torch.float32
    return centers, centers


FORMS = {
    "tcformer": dictionary,
    "chat_univi": dictionary,
    "hbi": dictionary,
    "prunevid": tensor,
    "ermvp": tensor,
    "dynfocus": dynfocus,
    "hot": hot,
    "flashvid": flashvid,
    "holitom": holitom,
}
MASKED = ["tcformer", "chat_univi", "hbi", "prunevid", "dynfocus", "hot", "flashvid"]
IN_FLOAT32 = ["chat_univi", "prunevid", "flashvid", "holitom"]  # the others compute in the dtype of x


def seeded(function, *args, seed=11, **kw):
    """(result, the generator's state after it)."""
    torch.manual_seed(seed)
    result = function(*args, **kw)
    return result, torch.get_rng_state()


def agreement(labels, others):
    """Share of tokens that are together with exactly the same tokens under both."""
    together, also = (one[:, :, None] == one[:, None, :] for one in (labels, others))
    return (together == also).all(-1).float().mean().item()
