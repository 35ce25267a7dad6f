"""Before any test has taken an op's function: see support."""

import dynfocus_ops

from .support import DEVICE, running_on_device

if DEVICE is not None:
    for name in dynfocus_ops.__all__:
        if name != "use_backend":
            setattr(dynfocus_ops, name, running_on_device(getattr(dynfocus_ops, name)))
