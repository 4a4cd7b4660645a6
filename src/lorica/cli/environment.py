"""Facts about the machine that Lorica runs on: versions, devices, extras, folders, and what is missing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from lorica.models import bundled

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Package:
    """A package that Lorica builds on: what is installed, and what is asked for."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A place where a model can run."""

    name: str
    description: str
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that is not there, and how to get it."""

    what: str
    remedy: str
    needed: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that ``lorica doctor`` tells."""

    lorica: str
    python: str
    system: str
    packages: list[Package]
    extras: dict[str, list[Package]]
    devices: list[Device]
    cache_folder: str
    cache_free_gib: float
    bundled_model: bool
    missing: list[Missing] = field(default_factory=list[Missing])

    @property
    def healthy(self) -> bool:
        """Whether everything is there that Lorica cannot do without."""
        return not any(missing.needed for missing in self.missing)


def examine() -> Environment:
    """Look at this machine. Imports torch where it is installed, to ask it for its devices."""
    packages = list(_packages(None))
    extras = {extra: list(_packages(extra)) for extra in _extras()}
    ships = has_bundled_model()
    folder = cache_folder()
    return Environment(
        lorica=version("lorica"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        extras=extras,
        devices=devices(),
        cache_folder=str(folder),
        cache_free_gib=round(free_gib(folder), 1),
        bundled_model=ships,
        missing=list(_missing(packages, extras, ships)),
    )


def cache_folder() -> Path:
    """Return the folder where models from the Hub are kept; the usual one where the Hub's library is missing."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(HF_HUB_CACHE)


def free_gib(folder: Path) -> float:
    """Return the free space, in GiB, where the folder is or would be made."""
    present = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(present).free / GIB


def has_bundled_model() -> bool:
    """Return whether the bundled base model lies in the package with its weights."""
    return any((bundled.FOLDER / "unet").glob("*.safetensors"))


def devices() -> list[Device]:
    """Return the devices that torch sees, the best first; none without torch."""
    try:
        import torch
    except ImportError:
        return []
    found = [Device(f"cuda:{index}", *_gpu(index)) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU"))
    return [*found, Device("cpu", f"{torch.get_num_threads()} threads")]


def _gpu(index: int) -> tuple[str, float]:
    """Return the name and memory of one GPU."""
    import torch

    facts = torch.cuda.get_device_properties(index)
    return facts.name, round(facts.total_memory / GIB, 1)


def _extras() -> list[str]:
    """Return the names of the optional groups that this installation declares, in their order."""
    names = (_extra_of(Requirement(line)) for line in requires("lorica") or [])
    return list(dict.fromkeys(name for name in names if name))


def _packages(extra: str | None) -> Iterator[Package]:
    """Yield the packages of one optional group, or those that are always needed (None)."""
    for line in requires("lorica") or []:
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": extra or ""})
        if _extra_of(wanted) == extra and applies:
            yield _look_up(wanted)


def _extra_of(requirement: Requirement) -> str | None:
    """Return the optional group of a requirement, None if it is always needed."""
    _, found, rest = str(requirement.marker or "").partition('extra == "')
    return rest.partition('"')[0] if found else None


def _look_up(wanted: Requirement) -> Package:
    """Compare what is installed with what is wanted."""
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return Package(wanted.name, str(wanted.specifier), None, fits=False)
    fits = wanted.specifier.contains(installed, prereleases=True)
    return Package(wanted.name, str(wanted.specifier), installed, fits)


def _missing(packages: list[Package], extras: dict[str, list[Package]], ships: bool) -> Iterator[Missing]:
    """Yield what is not there, the necessary first."""
    for package in packages:
        if not package.fits:
            found = f"{package.installed} is installed" if package.installed else "not installed"
            what = f"{package.name}{package.wanted} ({found})"
            yield Missing(what, f"pip install '{package.name}{package.wanted}'", needed=True)
    if not ships:
        yield Missing("the weights of the bundled base model", "make base, or install a release", needed=False)
    for extra, members in extras.items():
        names = [member.name for member in members if not member.fits]
        if names:
            yield Missing(f"extra {extra!r}: {', '.join(names)}", f"pip install 'lorica[{extra}]'", needed=False)
