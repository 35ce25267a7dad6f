"""``import dynfocus.auto`` makes transformers' Auto classes know DynFocus directories."""

from transformers import AutoVideoProcessor
from transformers.utils import is_torchvision_available

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing_dynfocus import DynFocusProcessor
from dynfocus.video_processing_dynfocus import DynFocusVideoProcessor

# Configuration, model and processor register themselves when imported; AutoVideoProcessor exists only with torchvision.
if is_torchvision_available():
    AutoVideoProcessor.register(DynFocusConfig, DynFocusVideoProcessor, exist_ok=True)

__all__ = ["DynFocusConfig", "DynFocusForConditionalGeneration", "DynFocusProcessor", "DynFocusVideoProcessor"]
