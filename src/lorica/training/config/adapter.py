"""Settings of the adapter, and of the precision and memory that a step takes."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from lorica.training.config.settings import StrictSettings

OF_THE_FILE = ("rank", "alpha", "rank_pattern", "alpha_pattern", "init_lora_weights", "target_modules")


class AdapterSettings(StrictSettings):
    """The adapter: which layers it is on, and its size and first values."""

    rank: int = Field(4, gt=0, validation_alias="network_dim", description="rank of the adapter")
    alpha: float | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("lora_alpha", "network_alpha"),
        description="the adapter is scaled by alpha / rank",
    )
    rank_pattern: tuple[str, ...] = Field((), description="GLOB=RANK of single layers, such as *.attn2.*=8")
    alpha_pattern: tuple[str, ...] = Field((), description="GLOB=ALPHA of single layers; else alpha, else their rank")
    init_lora_weights: Literal["gaussian", "zero", "orthogonal", "pissa"] = Field(
        "gaussian", description="first values of the factors; pissa (arXiv:2404.02948) doubles the rank of the file"
    )
    initial_adapter: str | None = Field(
        None,
        validation_alias="network_weights",
        description="go on from an adapter file of any format: its layers, ranks and values",
    )
    scale_weight_norms: float | None = Field(
        None, gt=0, description="limit of the norm of a layer's change, 1 is usual"
    )
    lora_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        validation_alias="network_dropout",
        description="share of the adapter's inputs that are dropped",
    )
    lora_dropout_pattern: tuple[str, ...] = Field((), description="GLOB=SHARE of single layers, 0 for none")
    target_modules: tuple[str, ...] = Field(
        ("attention",), description="attention, attention+ff, all-linear, all, or globs on module paths"
    )
    train_text_encoder: bool = Field(False, description="also adapt the text encoder")

    @model_validator(mode="after")
    def _agree_on_norms(self) -> AdapterSettings:
        if self.scale_weight_norms is not None and self.init_lora_weights == "pissa":
            raise ValueError("scale_weight_norms would shrink what pissa takes from the base: leave one out")
        return self

    @model_validator(mode="after")
    def _agree_on_the_start(self) -> AdapterSettings:
        fields = type(self).model_fields
        given = [name for name in OF_THE_FILE if getattr(self, name) != fields[name].default]
        if self.initial_adapter is not None and given:
            raise ValueError(f"{given[0]} is set, but initial_adapter brings it along: leave one out")
        return self


class ComputeSettings(StrictSettings):
    """Precision of the base and of a step, and what is done to save memory."""

    base_precision: Literal["fp32", "bf16", "fp16", "int8", "nf4"] | None = Field(
        None,
        description="precision of the base; that of mixed_precision if unset. int8 needs torchao, nf4 bitsandbytes",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = Field(
        None, description="precision that a step computes in; the adapter is always fp32"
    )
    enable_xformers_memory_efficient_attention: bool = Field(
        False,
        validation_alias="xformers",
        description="attention of xformers on a GPU; torch's own, which is the default, does the same",
    )
    allow_tf32: bool = Field(False, description="faster, coarser matrix products on Ampere GPUs and later")
    gradient_checkpointing: bool = Field(
        False, description="save the inputs of blocks alone: least memory, 1.35 to 1.7 times the time"
    )
    remember_less: bool = Field(
        False,
        description="keep fewer activations for the backward pass and compute them again there: "
        "about half the memory of a step, some percent more time, same result",
    )
