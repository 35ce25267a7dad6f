"""Makes Triton's interpreter several times as fast: it patches triton.language anew in each call of a device function.

Once in each launch is enough. The kernels, and what the interpreter does in them, stay as they are.
"""

from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def patch_once_in_each_launch() -> None:
    patch = interpreter._patch_lang
    patched: set[tuple[bool, bool]] = set()  # in this launch: whether triton.language, and whether its core

    def patch_unless_patched(fn: Any) -> Any:
        modules = fn.__globals__.values()
        wanted = (any(module is tl for module in modules), any(module is tl.core for module in modules))
        if wanted in patched:
            return interpreter._LangPatchScope()
        is_launch = not patched
        patched.add(wanted)
        scope = patch(fn)
        if is_launch:
            restore = scope.restore

            def restore_and_forget() -> None:
                restore()
                patched.clear()

            scope.restore = restore_and_forget
        return scope

    interpreter._patch_lang = patch_unless_patched
