"""The format of USO (and of XLabs' trainer with single blocks) for Flux: adapters in all attention processors.

``single_blocks.0.processor.qkv_lora.down.weight`` changes the q, k and v rows of ``linear1``, and not its MLP rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorica.formats.dialects.xlabs import XLABS, ProcessorDialect
from lorica.formats.keys_to_modules import Keys
from lorica.formats.names import Location
from lorica.models import Target

_FUSED = "linear1"  # q, k, v and the MLP over each other


class _USO(ProcessorDialect):
    def recognises(self, keys: Keys) -> bool:
        return keys.hold(".processor.qkv_lora.", ".processor.proj_lora.")

    def table(self, model: Target) -> Mapping[str, Location]:
        table = super().table(model)
        fused = {name: each for name, each in table.items() if name.endswith(f".{_FUSED}") and len(each.parts) > 1}
        return {**table, **{f"{name}.qkv": Location(each.component, each.parts[:3]) for name, each in fused.items()}}


USO = _USO(name="uso", prefixes=XLABS.prefixes)
