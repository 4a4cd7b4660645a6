"""Adapters on a live model: attach, load, strengths, detach; and factors that can be trained."""

from __future__ import annotations

from lorica.runtime.attach import attach
from lorica.runtime.loras import Loras
from lorica.runtime.model.targets import choose_modules, components_of, target_of
from lorica.runtime.trainable.trainable import Trainable

__all__ = ["Loras", "Trainable", "attach", "choose_modules", "components_of", "target_of"]
