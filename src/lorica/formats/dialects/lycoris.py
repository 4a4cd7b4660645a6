"""The format of LyCORIS outside of Kohya's scripts (its wrapper, SimpleTuner): ``lycoris_<flat path>.<leaf>``.

The prefix does not say the component: the paths do, and a path that several components have is refused.
"""

from __future__ import annotations

from lorica.formats.dialects.naming import WrittenDialect

LYCORIS = WrittenDialect(
    name="lycoris",
    starts=("lycoris_",),
    prefixes={"unet": ("lycoris",), "transformer": ("lycoris",), "prior": ("lycoris",)},
    joint="_",
)
