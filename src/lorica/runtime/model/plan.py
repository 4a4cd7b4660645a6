"""Plan a load completely before anything is changed: every layer of an adapter finds its module, or all is refused."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import LoRAError, ModelError, UnknownNameError
from lorica.runtime.model.layers import LayerIndex, Place
from lorica.runtime.model.projections import join_projections
from lorica.runtime.model.supported_layers import check_fits

SHOWN = 5  # misfits that a message lists in full


def plan_load(adapter: Adapter, indices: Mapping[str, LayerIndex], name: str) -> dict[Place, AdapterLayer]:
    """The layers of an adapter by the live model's own paths.

    Args:
        adapter: what is to be loaded.
        indices: the live model's layers, by component.
        name: what the adapter is called, for messages.

    Raises:
        ModelError: if the adapter is empty, or a component or module is missing, of another type or shape. It
            names what does not fit.
    """
    if not len(adapter) and not adapter.embeddings:
        raise ModelError(f"adapter {name!r} changes no module at all; there is nothing to load.")
    plan: dict[Place, AdapterLayer] = {}
    misfits: list[str] = []
    for component, layers in adapter.components.items():
        part = _component(component, indices, name, alone=len(adapter.components) == 1)
        index = indices[part]
        for path, change in layers.items():
            fits = index.shapes.get(path) == change.weight_shape and not isinstance(index.layers[path], nn.Embedding)
            found = path if fits else _place(path, change, index.layers, index.root)
            if isinstance(found, str) and (part, found) not in plan:
                plan[part, found] = change
            else:
                why = f"another layer of the adapter is for {part}.{found} too" if isinstance(found, str) else found
                misfits.append(f"{component}.{path}: {why}")
    if misfits:
        raise ModelError(_misfit_message(name, misfits, len(adapter)))
    return join_projections(plan, indices)


def _place(path: str, change: AdapterLayer, modules: Mapping[str, nn.Module], component: nn.Module) -> str | LoRAError:
    """The live path for one layer, or why it has no place."""
    try:
        found = live_path(path, modules)
        check_fits(modules[found], change)
    except UnknownNameError as error:
        return _other_place(path, change, modules, component) or error
    except LoRAError as error:
        return error
    return found


def _other_place(
    path: str, change: AdapterLayer, modules: Mapping[str, nn.Module], component: nn.Module
) -> str | LoRAError | None:
    """The first path of a layer that stands under several, or why a module is no layer for adapters."""
    try:
        module = component.get_submodule(path)
        check_fits(module, change)
    except LoRAError as error:
        return error
    except AttributeError:
        return None
    return next((known for known, layer in modules.items() if layer is module), None)


def live_path(path: str, modules: Mapping[str, nn.Module]) -> str:
    """A module's path as the live model has it: CLIP text encoders come with and without ``text_model.``.

    Raises:
        UnknownNameError: if the model has no such layer.
    """
    for spelling in (path, f"text_model.{path}", path.removeprefix("text_model.")):
        if spelling in modules:
            return spelling
    raise UnknownNameError.among_many("module", path, list(modules))


def _component(component: str, components: Mapping[str, LayerIndex], name: str, *, alone: bool) -> str:
    """The live component for one of the adapter's; a single bare module takes an adapter's only component."""
    if component in components:
        return component
    if component == "prior" and "prior_prior" in components:  # as pipelines call it that hold a prior and a decoder
        return "prior_prior"
    if alone and len(components) == 1 and "model" in components:
        return "model"
    raise ModelError(
        f"adapter {name!r} has layers for the component {component!r}, but the model only has "
        f"{', '.join(components)}. It was made for another kind of pipeline."
    )


def _misfit_message(name: str, misfits: list[str], total: int) -> str:
    shown = "\n  ".join(misfits[:SHOWN])
    rest = f"\n  and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
    return (
        f"adapter {name!r} does not fit this model: {len(misfits)} of its {total} layers have no place. The model is "
        f"unchanged. Is it the base model that the adapter was trained on?\n  {shown}{rest}"
    )
