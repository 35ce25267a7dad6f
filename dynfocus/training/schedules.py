"""Schedules over a run's progress in [0, 1]."""

import math

from dynfocus.training.recipe import SelectionSettings


def sigma_at(settings: SelectionSettings, progress: float) -> float:
    """σ of the perturbed maximum (DynFocus, CVPR 2025): wide at first, so that every event is tried, then sharper."""
    end = settings.sigma if settings.sigma_end is None else settings.sigma_end
    done = progress if settings.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return settings.sigma + (end - settings.sigma) * done
