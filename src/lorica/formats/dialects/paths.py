"""Where a dotted path of a file stands: the component that it names, or the one in which the file's paths fit best."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from lorica.adapters import ANY
from lorica.formats.account import Account
from lorica.formats.keys_to_modules import FileModules
from lorica.formats.names import BARE_MODULE, Location, name_table
from lorica.models import FAMILIES, Target
from lorica.models.clip import spellings, with_wrapper
from lorica.models.detect import Candidate, detect
from lorica.models.folding import Shape

COMPONENTS = (
    "unet", "transformer", "transformer_2", "prior", "controlnet", "connectors", "text_conditioner",
    "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4",
)  # fmt: skip
# What stands before a path: PEFT's wrapper, that of several devices, and what programs call their denoiser.
_TRAINED = ("base_model.model.", "module.")
_WRAPPERS = (*_TRAINED, "pipe.dit.", "diffusion_model.", "dit.", "net.", "model.")
# What programs put in between: compiling, sharding, recomputation, and layers that hold an adapter.
_WITHIN = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_flat_param)\.|\.base_layer$")
_EXPERTS = ("transformer", "transformer_2")  # of one architecture: a path alone means the first


class Paths:
    """Where the dotted paths of a file stand: component and module path, as the target spells them.

    Without a target the family decides whose names and sizes fit best, for all paths that name no component.

    Args:
        target: the model that the file is for, if it is known.
        components: the names of components that paths begin with.
        modules: the modules of the file.
        home: the component that all of them are of, if it is known.
    """

    def __init__(
        self, target: Target | None, components: set[str], modules: FileModules, home: str | None = None
    ) -> None:
        self._components = components
        self._home = home
        self._modules = modules
        self.candidates: list[Candidate] = []
        self.target = target or self._family()

    def known(self) -> list[str]:
        """Every path that could have been used."""
        return [f"{component}.{path}" for component, path, _ in self.target.modules()] if self.target else []

    def find(self, name: str) -> Location | str:
        """The location of a module by its name in the file, or the reason why there is none."""
        component, path = self._split(name)
        if component is None:
            return self._find_anywhere(path)
        if self.target is None:
            *_, bare = _unwrapped(path, _TRAINED)
            return Location.of(component, with_wrapper(bare))
        home = BARE_MODULE if set(self.target.components) == {BARE_MODULE} else component
        if home not in self.target.components:
            return f"the model has no component {component!r}, only {', '.join(self.target.components)}."
        found = self._find_in(home, path)
        return found or f"the model has no module of this path in its {home}."

    def _split(self, name: str) -> tuple[str | None, str]:
        """The component that a name begins with, if it does, and the path, both without what wraps them."""
        if self._home is not None:
            return self._home, name.removeprefix(_WRAPPERS[0])
        for bare in _unwrapped(name):
            component, _, rest = bare.partition(".")
            if component in self._components:
                return component, rest
        return None, name

    def _find_in(self, component: str, path: str) -> Location | None:
        own = self.target.components[component] if self.target else {}
        for bare in _unwrapped(path):
            for spelling in spellings(bare):
                if spelling in own:
                    return Location.of(component, spelling)
            if bare in self._foreign[component]:
                return self._foreign[component][bare]
        return None

    def _find_anywhere(self, path: str) -> Location | str:
        """The only component that has a path, and where; or why there is none."""
        if self.target is None:
            return f"its path begins with no component ({', '.join(COMPONENTS[:3])}, ...), and no model known has it."
        found = {component: self._find_in(component, path) for component in self.target.components}
        homes = {component: location for component, location in found.items() if location is not None}
        if homes.keys() == set(_EXPERTS):
            del homes[_EXPERTS[1]]
        if len(homes) > 1:
            return f"its path names no component, and {' and '.join(sorted(homes))} have such a module."
        return next(iter(homes.values()), f"no module of {self.target.name} has this path.")

    @cached_property
    def _foreign(self) -> Mapping[str, Mapping[str, Location]]:
        """For each component the location of each of its modules, by every name that programs have for it."""
        parts = self.target.components.items() if self.target else ()
        tables = ((component, Target(component, {component: shapes})) for component, shapes in parts)
        return {component: name_table(part, {component: ("",)}, ".") for component, part in tables}

    def _family(self) -> Target | None:
        """The family that the file's paths fit best, if they alone do not tell what they are.

        That is where some name no component, have another program's name, or where tensors do not tell a size.
        """
        sizes: dict[str, dict[str, Shape | None]] = {}
        for name, kind in self._modules.kinds.items():
            component, path = self._split(name)
            *_, bare = _unwrapped(path)
            sizes.setdefault(component or BARE_MODULE, {})[bare] = self._modules.sizes[kind]
        self.candidates = detect(sizes)
        best = next((each for each in self.candidates if each.fitting), None)
        if best is None:
            return None
        target = FAMILIES[best.family].target
        own = all(
            size != (ANY, ANY) and self._is_own(target, component, path)
            for component, paths in sizes.items()
            for path, size in paths.items()
        )
        return None if own else target

    def _is_own(self, target: Target, component: str, path: str) -> bool:
        """Whether a path needs no table: it names its component, and is not what another program calls a module."""
        if component == BARE_MODULE:
            return False
        shapes = target.components.get(component)
        return (
            shapes is None or any(each in shapes for each in spellings(path)) or path not in _names(component, target)
        )


def _names(component: str, target: Target) -> Mapping[str, Location]:
    return name_table(Target(component, {component: target.components[component]}), {component: ("",)}, ".")


def read_paths(
    target: Target | None, components: set[str], modules: FileModules, account: Account, home: str | None = None
) -> Paths:
    """The paths of a file, with an account of the families that it may be for."""
    paths = Paths(target, components, modules, home)
    account.candidates = paths.candidates
    account.spelling.models = [paths.target] if target is None and paths.target else ()
    return paths


def _unwrapped(path: str, wrappers: Sequence[str] = _WRAPPERS) -> Iterator[str]:
    """A path, and what is left of it without each of the wrappers that programs put around a model."""
    bare = _WITHIN.sub("", path)
    yield bare
    while wrapper := next((wrapper for wrapper in wrappers if bare.startswith(wrapper)), None):
        bare = bare.removeprefix(wrapper)
        yield bare
