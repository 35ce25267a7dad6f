"""Replacements for the density-peaks clustering that other projects carry a copy of.

One module per dialect, with functions under the project's own names and signatures, that return what the project's
return: types, dtypes, order of labels, use of torch's generator. `patch` puts them in place; `python -m
dynfocus_ops.dropin --dry-run PATH` lists what it would look at in a source tree.
"""

from dynfocus_ops.dropin.patching import Patch, Refused, Replaced, patch

__all__ = ["Patch", "Refused", "Replaced", "patch"]
