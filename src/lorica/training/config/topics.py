"""Every setting of a run, from the topics that they stand in."""

from __future__ import annotations

from pydantic import Field

from lorica.training.config.adapter import AdapterSettings, ComputeSettings
from lorica.training.config.inputs import DataSettings, ModelSettings, PictureSettings
from lorica.training.config.objective import ObjectiveSettings
from lorica.training.config.optimizer import OptimizerSettings, StepSettings
from lorica.training.config.output import OutputSettings, ValidationSettings


class RunSettings(  # pydantic lists the fields of the last base first
    OutputSettings,
    ValidationSettings,
    ComputeSettings,
    AdapterSettings,
    ObjectiveSettings,
    OptimizerSettings,
    StepSettings,
    PictureSettings,
    DataSettings,
    ModelSettings,
):
    """The run."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="everything random is a function of it and the step (scripts: none)"
    )
