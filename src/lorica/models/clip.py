"""The two spellings of a CLIP text encoder's module paths.

Up to transformers 5.5 every path begins with ``text_model.``; later versions dropped it from ``CLIPTextModel`` but not
from ``CLIPTextModelWithProjection``. Published files have it, so files are written with it, and an adapter that was
read without a target has it.
"""

from __future__ import annotations

WRAPPER = "text_model."
_ROOTS = ("encoder.layers.", "embeddings.", "final_layer_norm")


def spellings(path: str) -> tuple[str, ...]:
    """The path and, for a module of a CLIP text encoder, its other spelling."""
    bare = path.removeprefix(WRAPPER)
    if not bare.startswith(_ROOTS):
        return (path,)
    return (path, bare if path.startswith(WRAPPER) else WRAPPER + path)


def with_wrapper(path: str) -> str:
    """Spelling in files."""
    return WRAPPER + path if path.startswith(_ROOTS) else path


def without_wrapper(path: str) -> str:
    """Spelling without the wrapper, with which every live path of the module ends."""
    bare = path.removeprefix(WRAPPER)
    return bare if bare.startswith(_ROOTS) else path
