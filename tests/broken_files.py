"""Files of every kind that is read, whole and damaged, for tests that nothing but the right error comes of them."""

from __future__ import annotations

import random
import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import Image

from icc_profiles import DISPLAY_P3, rgb_profile

SIZE = (23, 17)
MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16", "F")
# Beginnings of files of the formats that Pillow reads and does not write.
HEADS = (
    b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x11\0\0\0\x17\0\x08\0\3" + bytes(1400),  # PSD
    b"\0\0\0\0\x11\xaf\2\0\x17\0\x11\0\x08\0\3\0" + bytes(300),  # FLI
    b"FTEX" + struct.pack("<6i", 0x10003, 23, 17, 1, 1, 0) + bytes(300),  # FTEX
    b"\x80\xe8\0\0" + bytes(412) + struct.pack("<2H", 17, 23) + bytes(200),  # PIXAR
    b"\x59\xa6\x6a\x95" + struct.pack(">7I", 23, 17, 24, 0, 1, 0, 0) + bytes(1300),  # SUN
    b'/* XPM */\nstatic char *a[] = {\n"3 2 2 1",\n"a c #ff0000",\n"b c none",\n"aba",\n"bab"};\n',  # XPM
    struct.pack(">5I", 28, 2, 5, 4, 3) + b"GIMP" + struct.pack(">I", 10) + bytes(90),  # GBR
    b"\0\0\2\0\1\0\x10\x10\0\0\1\0\1\0\x30\0\0\0\x16\0\0\0" + bytes(300),  # CUR
    struct.pack("<3I", 987654321, 12, 0) + bytes(300),  # DCX
    b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =   8".ljust(80) + b"END".ljust(80) + bytes(3000),  # FITS
    b"P7 332\n#END_OF_COMMENTS\n5 4 255\n" + bytes(20),  # XVTHUMB
    b"qoif" + struct.pack(">2I2B", 5, 4, 3, 0) + bytes(60),  # QOI
    b"BLP2" + struct.pack("<i4B2I", 1, 1, 0, 0, 0, 8, 8) + bytes(1300),  # BLP
    b"*23*17\n\x0c" + bytes(500),  # IMT
    b"\x1c\x02" + bytes(300),  # IPTC
    b"\0\0\0\0\0\0\0\4" + bytes(400),  # MCIDAS
)


def pictures() -> list[bytes]:
    """A small picture in every format and mode that can be written, and heads of the others."""
    Image.init()
    made = list(HEADS)
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in MODES:
            buffer = BytesIO()
            picture = Image.fromarray(noise)
            picture = picture.convert("L").convert(mode) if mode in ("I;16", "F") else picture.convert(mode)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # formats that Pillow is going to give up
                    picture.save(buffer, name, exif=exif, icc_profile=rgb_profile(DISPLAY_P3, 2.2))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a mode that the format does not hold
            made.append(buffer.getvalue())
    return made


def damaged(seed: int, whole: list[bytes]) -> bytes:
    """One of some files with bytes changed, cut out, doubled or cut off; now and then as it is."""
    draw = random.Random(seed)
    content = bytearray(draw.choice(whole))
    for _ in range(draw.choice((0, 1, 1, 2, 5, 20))):
        place = draw.randrange(len(content) + 1) if draw.random() < 0.5 else draw.randrange(min(len(content), 64) + 1)
        length = draw.choice((1, 1, 2, 4, 16))
        match draw.randrange(5):
            case 0 | 1:
                content[place : place + length] = draw.randbytes(length)
            case 2:
                content[place : place + length] = draw.choice((b"\0", b"\xff", b"\x7f")) * length
            case 3:
                del content[place : place + length]
            case _:
                content = content[: max(1, place)] if draw.random() < 0.5 else content + content[place:]
    return bytes(content)


def texts(kind: str) -> list[bytes]:
    """Whole text files of a kind: ``txt``, ``jsonl``, ``csv``, ``toml`` or ``set``."""
    return [text.encode() for text in _TEXTS[kind]]


_TEXTS = {
    "txt": ["a cat, blue\n", "\ufeffé ü\n\nzwei {a|b}", ""],
    "jsonl": [
        '{"file_name": "a.png", "text": "a cat"}\n{"file_name": "é.png", "text": ["x", "\\ud83d\\ude00"]}\n',
        '{"file_name": "a.png", "text": "' + "\\\\" * 9 + '"}',
    ],
    "csv": ['file_name,text\na.png,"a, ""cat"""\né.png,x\n', "image;caption\na.png;b\n"],
    "toml": [
        'rank = 4\nlearning_rate = 1e-4\ntrain_data_dir = "~/a"\n[[datasets]]\nfolder = "b"\nrepeats = 3\n',
        "optimizer_args = { a = [1, 2.5, true, 1979-05-27], b.c = 'x' }\nrank_pattern = {'*' = 3}\n",
    ],
    "set": ["folder=a,repeats=3", '{"folder": "a", "is_reg": true}'],
}
