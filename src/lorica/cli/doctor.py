"""``lorica doctor``: installed and missing packages, devices and folders, with a remedy for what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lorica.cli.output import FAILED, json_option, print_json, show

if TYPE_CHECKING:
    from lorica.cli.environment import Device, Environment, Package


@click.command()
@json_option
def command(as_json: bool) -> int:
    """Say what is installed, what is missing, and how to get it.

    The exit code is 1 if something is missing that Lorica cannot do without.
    """
    from lorica.cli.environment import examine

    facts = examine()
    if as_json:
        print_json(asdict(facts))
    else:
        show("\n".join(lines(facts)))
    return 0 if facts.healthy else FAILED


def lines(facts: Environment) -> Iterator[str]:
    """Report for people, line by line."""
    yield f"lorica {facts.lorica}, Python {facts.python}, {facts.system}"
    yield ""
    yield "Devices"
    yield from (f"  {_device(device)}" for device in facts.devices)
    yield "Packages"
    yield from (f"  {_package(package)}" for package in facts.packages)
    yield "Extras"
    yield from (f"  {name:<12} {_members(members)}" for name, members in facts.extras.items())
    yield "Folders"
    yield f"  models from the Hub are kept in {facts.cache_folder} ({facts.cache_free_gib} GiB free)"
    yield f"  the bundled base model is {'there' if facts.bundled_model else 'missing'}"
    yield ""
    yield from _closing(facts)


def _device(device: Device) -> str:
    memory = f", {device.memory_gib} GiB" if device.memory_gib else ""
    return f"{device.name:<8} {device.description}{memory}"


def _package(package: Package) -> str:
    note = "" if package.fits else f"   <- {package.wanted} is needed"
    return f"{package.name:<16} {package.installed or 'missing'}{note}"


def _members(members: list[Package]) -> str:
    return ", ".join(f"{member.name} {member.installed or 'missing'}" for member in members)


def _closing(facts: Environment) -> Iterator[str]:
    """Missing things with their remedies, the necessary apart from the optional."""
    needed = [missing for missing in facts.missing if missing.needed]
    optional = [missing for missing in facts.missing if not missing.needed]
    yield "Something necessary is missing:" if needed else "Everything necessary is there."
    yield from (f"  {missing.what}\n    {missing.remedy}" for missing in needed)
    if optional:
        yield "Optional, and not there:"
        yield from (f"  {missing.what}\n    {missing.remedy}" for missing in optional)
