"""Decoding a picture file (PNG, JPEG, TIFF, BMP) with Pillow, and refusing what Pillow would hand over incomplete.

Pillow gives zeros for rows that a PNG lacks and one grey for what a JPEG lacks, compares no check sum of a PNG's
pixels, takes the first page of several, and leaves it to its caller to rotate a photograph as its EXIF tag says. It
goes by the content, not by the name, and would start Ghostscript for a PostScript file.
"""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ..errors import InputError

# Names in Pillow; MPO, photographs with a preview, are opened as JPEG.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
BLOCK_BYTES = 1 << 20
# In a JPEG's scan FF00 is the byte FF. Any other marker ends the scan, or a part of it (FFD0 to FFD7).
JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
SCAN, END_OF_IMAGE, RESTARTS = 0xDA, 0xD9, range(0xD0, 0xD8)
# Samples per pixel of PNG's colour types, and the one of palettes.
PNG_PALETTE = 3
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First row, first column, row step, column step of the passes of an interlaced PNG.
PNG_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def read_picture(path: Path) -> Image.Image:
    """Decode a picture.

    Raises:
        InputError: unreadable or truncated, several pages, or to be rotated.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            pages = getattr(image, "n_frames", 1) if image.format in ("PNG", "TIFF") else 1
            # Of a TIFF Pillow rotates the pixels and forgets the tag; in a PNG it may stand behind the pixels.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, orientation)
            if image.format == "PNG":
                _check_rows(path)
            elif image.format in ("JPEG", "MPO"):
                _check_scans(path, image)
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, TypeError, DecompressionBombError, …
        raise InputError(f"{path}: unreadable or truncated image ({error}); replace the file.") from error
    if pages > 1:
        raise InputError(f"{path}: {pages} pages; expected one image per file. Save the page that is meant by itself.")
    if orientation not in (0, 1):
        raise InputError(
            f"{path}: its EXIF tag says that viewers rotate or flip it (orientation {orientation}); expected pixels as "
            "they are seen. Save it upright, with its masks, e.g. with Pillow's ImageOps.exif_transpose."
        )
    return image


def _check_rows(path: Path) -> None:
    """Raise OSError if a PNG holds fewer rows than it says, or a check sum is wrong; nothing of the pixels is kept."""
    with path.open("rb") as file:
        file.seek(8)
        found, expected = 0, 1
        inflate = zlib.decompressobj()
        kind, has_palette = b"", False
        while kind != b"IEND":
            start = file.read(8)
            length, kind = int.from_bytes(start[:4], "big"), start[4:]
            content = file.read(length)
            if int.from_bytes(file.read(4), "big") != zlib.crc32(kind + content):
                raise OSError(f"wrong check sum of a part {kind.decode('latin-1')!r}")
            has_palette |= kind == b"PLTE"
            if kind == b"IHDR":
                needs_palette, expected = content[9] == PNG_PALETTE, _count_bytes(content)
            while kind == b"IDAT" and content and found < expected:
                found += len(inflate.decompress(content, BLOCK_BYTES))
                content = inflate.unconsumed_tail
    if needs_palette and not has_palette:
        raise OSError("no palette for its colours")
    if found < expected:
        raise OSError(f"rows of {found} bytes, expected {expected}")


def _count_bytes(header: bytes) -> int:
    """Bytes of all rows, each with the one that names its filter, from the chunk IHDR."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * PNG_SAMPLES[header[9]]
    passes = PNG_PASSES if header[12] else ((0, 0, 1, 1),)
    total = 0
    for top, left, down, right in passes:
        rows, columns = max(0, -(-(height - top) // down)), max(0, -(-(width - left) // right))
        total += rows * (1 + -(-columns * bits // 8)) if columns else 0
    return total


def _check_scans(path: Path, image: Image.Image) -> None:
    """Raise OSError if a JPEG's scans end early: a decoder that lacks data takes what follows them for pixels."""
    with Image.open(io.BytesIO(_lengthen_scans(path.read_bytes())), formats=("JPEG",)) as longer:
        if not np.array_equal(np.asarray(image), np.asarray(longer)):
            raise OSError("a part of the pixels is missing")


def _lengthen_scans(content: bytes) -> bytes:
    """A JPEG with bytes behind each part of a scan; a decoder that has all of it skips them."""
    more = bytes(range(1, 250, 3))
    parts, done, place = [], 0, 2
    while content[place : place + 1] == b"\xff" and content[place + 1] != END_OF_IMAGE:
        kind = content[place + 1]
        place += 1 if kind == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        while kind == SCAN and (marker := JPEG_MARKER.search(content, place)):
            parts += [content[done : marker.start()], more]
            done, place = marker.start(), marker.end()
            if marker[0][-1] not in RESTARTS:
                place = done
                break
    return b"".join([*parts, content[done:]])
