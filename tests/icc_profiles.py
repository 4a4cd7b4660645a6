"""ICC profiles of matrices and one gamma, as small as the format allows, and the colours that they mean."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

# Colours of the primaries in XYZ at D50, as columns red, green, blue.
SRGB = ((0.4360747, 0.3850649, 0.1430804), (0.2225045, 0.7168786, 0.0606169), (0.0139322, 0.0971045, 0.7141733))
DISPLAY_P3 = ((0.5151, 0.2920, 0.1571), (0.2412, 0.6922, 0.0666), (-0.0011, 0.0419, 0.7841))
ADOBE_RGB = ((0.6097559, 0.2052401, 0.1492240), (0.3111242, 0.6256560, 0.0632197), (0.0194811, 0.0608902, 0.7448387))
PROPHOTO = ((0.7976749, 0.1351917, 0.0313534), (0.2880402, 0.7118741, 0.0000857), (0.0, 0.0, 0.8252100))
Matrix = tuple[tuple[float, float, float], ...]
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: Matrix, gamma: float) -> bytes:
    columns = list(zip(*primaries, strict=True))
    tags = {f"{name}XYZ": _xyz(column) for name, column in zip("rgb", columns, strict=True)}
    return _profile(b"RGB ", {**tags, **{f"{name}TRC": _curve(gamma) for name in "rgb"}})


def gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {"kTRC": _curve(gamma)})


def to_srgb(values: npt.NDArray[np.uint8], primaries: Matrix, gamma: float) -> npt.NDArray[np.float64]:
    """The right colours, 0 to 255, written out: linear light, other primaries, the curve of sRGB."""
    light = (values / 255) ** gamma @ np.array(primaries).T @ np.linalg.inv(np.array(SRGB)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _profile(space: bytes, tags: dict[str, bytes]) -> bytes:
    tags = {"desc": _text("desc"), "cprt": _text("none"), "wtpt": _xyz(WHITE), **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + b"".join(_fixed(value) for value in WHITE)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))


def _text(text: str) -> bytes:
    content = text.encode() + b"\0"
    return b"desc" + struct.pack(">II", 0, len(content)) + content + bytes(8 + 3 + 67)
