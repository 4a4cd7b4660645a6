"""Facts about this machine: versions, devices, extras, folders, and what is missing."""

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
    """A dependency: the version that is required, and the one that is installed."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A device that models can run on."""

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
        """Whether nothing necessary is missing."""
        return not any(missing.needed for missing in self.missing)


def examine() -> Environment:
    """Facts about this machine. Imports torch where it is installed, to ask it for its devices."""
    packages = list(_packages(None))
    extras = {extra: list(_packages(extra)) for extra in _extras()}
    ships, folder = not bundled.missing_weights(), cache_folder()
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
    """Folder of models from the Hub; the usual one where the Hub's library is missing."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(HF_HUB_CACHE)


def free_gib(folder: Path) -> float:
    """Free space, in GiB, where the folder is or would be made."""
    present = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(present).free / GIB


def devices() -> list[Device]:
    """Devices that torch sees, the best first; none without torch."""
    try:
        import torch
    except ImportError:
        return []
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    found = [Device(f"cuda:{index}", gpu.name, round(gpu.total_memory / GIB, 1)) for index, gpu in enumerate(gpus)]
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU"))
    return [*found, Device("cpu", f"{torch.get_num_threads()} threads")]


def _extras() -> list[str]:
    """Names of the extras that this installation declares, in their order."""
    names = (_extra_of(Requirement(line)) for line in requires("lorica") or [])
    return list(dict.fromkeys(name for name in names if name))


def _packages(extra: str | None) -> Iterator[Package]:
    """Packages of one extra, or those that are always needed (None)."""
    for line in requires("lorica") or []:
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": extra or ""})
        if _extra_of(wanted) == extra and applies:
            yield _look_up(wanted)


def _extra_of(requirement: Requirement) -> str | None:
    """Extra of a requirement, None if it is always needed."""
    _, found, rest = str(requirement.marker or "").partition('extra == "')
    return rest.partition('"')[0] if found else None


def _look_up(wanted: Requirement) -> Package:
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return Package(wanted.name, str(wanted.specifier), None, fits=False)
    fits = wanted.specifier.contains(installed, prereleases=True)
    return Package(wanted.name, str(wanted.specifier), installed, fits)


def _missing(packages: list[Package], extras: dict[str, list[Package]], ships: bool) -> Iterator[Missing]:
    """Missing things, the necessary first."""
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
