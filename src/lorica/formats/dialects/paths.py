"""Where a dotted path of a file stands: the component that it names, or else the only one that has it."""

from __future__ import annotations

from lorica.formats.names import BARE_MODULE, Location
from lorica.models import FAMILIES, Target
from lorica.models.clip import spellings, with_wrapper

COMPONENTS = (
    "unet", "transformer", "transformer_2", "prior", "controlnet", "connectors", "text_conditioner",
    "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4",
)  # fmt: skip
_WRAPPERS = ("base_model.model.", "module.")  # PEFT's and that of training on several devices
_COMPILED = "_orig_mod."  # torch.compile's, before any module


class Paths:
    """Where the dotted paths of a file stand: component and module path, as the target spells them."""

    def __init__(self, target: Target | None, components: set[str]) -> None:
        self._target = target
        self._components = components

    def known(self) -> list[str]:
        """Every path that could have been used."""
        if self._target is None:
            return []
        return [f"{component}.{path}" for component, path, _ in self._target.modules()]

    def find(self, path: str) -> Location | str:
        """The location of a path, or the reason why there is no such module."""
        found = self._find(path)
        return found if isinstance(found, str) else Location.of(*found)

    def find_in(self, component: str, path: str) -> Location | str:
        """The location of a path of a component, or the reason why there is no such module."""
        found = self._find_in(component, path)
        return found if isinstance(found, str) else Location.of(*found)

    def _find(self, path: str) -> tuple[str, str] | str:
        bare = _bare(path)
        component, _, rest = bare.partition(".")
        if component not in self._components:
            return self._find_anywhere(bare)
        return self._find_in(component, rest)

    def _find_in(self, component: str, path: str) -> tuple[str, str] | str:
        target = self._target
        if target is None:
            return component, with_wrapper(_bare(path))
        home = BARE_MODULE if set(target.components) == {BARE_MODULE} else component
        if home not in target.components:
            return f"the model has no component {component!r}, only {', '.join(target.components)}."
        for spelling in (path, *spellings(_bare(path))):
            if spelling in target.components[home]:
                return home, spelling
        return f"the model has no module of this path in its {home}."

    def _find_anywhere(self, path: str) -> tuple[str, str] | str:
        """The only component that has a path without a component, and the path as it is there; or why there is none."""
        targets = [self._target] if self._target else [family.target for family in FAMILIES.values()]
        homes = {
            (component, spelling)
            for target in targets
            for component, shapes in target.components.items()
            for spelling in spellings(path)
            if spelling in shapes
        }
        if len(homes) == 1:
            return homes.pop()
        if homes:
            names = " and ".join(sorted(name for name, _ in homes))
            return f"its path names no component, and {names} have such a module."
        return f"its path begins with no component ({', '.join(COMPONENTS[:3])}, ...), and no model known has it."


def _bare(path: str) -> str:
    """A path without what programs wrap a model in while they train it."""
    bare = path.replace(_COMPILED, "") if _COMPILED in path else path
    while wrapper := next((wrapper for wrapper in _WRAPPERS if bare.startswith(wrapper)), None):
        bare = bare.removeprefix(wrapper)
    return bare
