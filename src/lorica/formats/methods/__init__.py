"""How files hold each adapter method, one a file; the readers and writers of all formats go through this table."""

from __future__ import annotations

from typing import Any

from lorica.formats.methods.bias import BIAS_ALONE
from lorica.formats.methods.boft import BOFT_METHOD
from lorica.formats.methods.dora import DORA
from lorica.formats.methods.full import FULL
from lorica.formats.methods.glora import GLORA
from lorica.formats.methods.ia3 import IA3_METHOD
from lorica.formats.methods.locon import LOCON
from lorica.formats.methods.loha import LOHA
from lorica.formats.methods.lokr import LOKR
from lorica.formats.methods.lora import LORA
from lorica.formats.methods.method import Method
from lorica.formats.methods.norm import NORM
from lorica.formats.methods.oft import OFT_METHOD
from lorica.formats.methods.oft_v2 import OFT_V2
from lorica.formats.methods.residual import RESIDUAL
from lorica.formats.methods.set_weight import SET_WEIGHT
from lorica.formats.methods.vera import VERA

METHODS: dict[str, Method[Any]] = {
    method.kind: method
    for method in (
        LORA, LOCON, RESIDUAL, DORA, LOHA, LOKR, GLORA, IA3_METHOD, OFT_METHOD, OFT_V2, BOFT_METHOD, VERA, FULL,
        SET_WEIGHT, NORM, BIAS_ALONE,
    )
}  # fmt: skip

__all__ = ["METHODS"]
