"""DynFocus: video-LLMs that look closely where it matters (CVPR 2025, arXiv 2411.12355).

Names load on first use, so that the connector (`dynfocus.connector`) can be used without transformers.
"""

import importlib
from typing import Any

_EXPORTS = {
    "DynFocusConfig": "configuration_dynfocus",
    "DynFocusForConditionalGeneration": "modeling_dynfocus",
    "VideoEncoding": "modeling_dynfocus",
    "DynFocusProcessor": "processing_dynfocus",
    "DynFocusVideoProcessor": "video_processing_dynfocus",
    "DynFocusConnector": "connector",
    "ConnectorSettings": "connector",
    "DynFocusError": "errors",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
