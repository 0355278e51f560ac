"""Bad and odd inputs, made on the spot from a seed: attributes set to what no program writes, bytes flipped or cut off.

Each `Input` writes itself into an empty folder and says what is to be opened there. Those of a kind come in the same
order at every run, so that a name in a report is enough to make the input again.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import RLELossless
from tiny_dicom import make_ct, write_series


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: what was done to it.
        write: writes it into an empty folder; returns the path that a user would give.
    """

    name: str
    write: Callable[[Path], Path]


# -- bytes -------------------------------------------------------------------------------------------------------------


def mutate(content: bytes, rng: random.Random, start: int = 0, stop: int | None = None) -> bytes:
    """Change bytes between two places: flip, replace, delete, insert, repeat, or cut the rest off."""
    changed = bytearray(content)
    stop = len(changed) if stop is None else min(stop, len(changed))
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place = rng.randrange(start, max(start + 1, stop))
        kind = rng.randrange(8)
        if kind < 2:
            changed[place : place + 1] = (
                bytes([changed[place] ^ 1 << rng.randrange(8)]) if place < len(changed) else b""
            )
        elif kind < 4:
            changed[place : place + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        elif kind == 4:
            del changed[place : place + rng.randrange(1, 9)]
        elif kind == 5:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 6:
            changed[place:place] = changed[place : place + rng.randrange(1, 64)]
        else:
            del changed[place:]
    return bytes(changed)


def mutations(name: str, content: bytes, number: int, start: int = 0, stop: int | None = None) -> Iterator[Input]:
    """A file's content, changed so many times."""
    for seed in range(number):
        changed = mutate(content, random.Random(seed), start, stop)
        yield Input(f"{name}, bytes changed by seed {seed}", partial(_write_bytes, name=name, content=changed))


def _write_bytes(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


# -- DICOM -------------------------------------------------------------------------------------------------------------

TEXT_NUMBERS = (
    b"", b"0 ", b"-1", b"1e400 ", b"nan ", b"inf ", b"one ", b"1\\2\\3\\4\\5\\6\\7", b"0.5 ", b"0,5 ", b"1_0 ", b"0x10",
    b"1e-300", "٣".encode(), b"\xff\xfe", b" 2 ", b"1\\", b"\\\\", b"99999999999999999999 ",
)  # fmt: skip
SHORT_NUMBERS = (b"", b"\0\0", b"\1\0", b"\2\0", b"\x11\0", b"\xff\xff", b"\1\0\1\0", b"\1")
# Attribute → its representation and values to try.
ATTRIBUTES: dict[str, tuple[str, Sequence[bytes]]] = {
    **{name: ("DS", TEXT_NUMBERS) for name in ("RescaleSlope", "RescaleIntercept", "SliceThickness")},
    "PixelSpacing": ("DS", (*TEXT_NUMBERS, b"0.5\\-1", b"0.5\\0 ", b"0.5\\nan ", b"0.5\\0.75\\1 ", b"0.5")),
    "ImagePositionPatient": ("DS", (*TEXT_NUMBERS, b"-50\\-40\\1e30 ", b"-50\\-40", b"-20\\-40\\12 ")),
    "ImageOrientationPatient": (
        "DS", (*TEXT_NUMBERS[:6], b"1\\0\\0\\1\\0\\0 ", b"0\\0\\0\\0\\0\\0 ", b"2\\0\\0\\0\\2\\0 ",
               b"1\\0\\0\\0\\-1\\0", b"1\\0\\0\\0.6\\0.8\\0 "),
    ),
    **{name: ("US", SHORT_NUMBERS) for name in (
        "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "PlanarConfiguration",
    )},
    "NumberOfFrames": ("IS", (b"", b"0 ", b"1 ", b"2 ", b"-1", b"ab", b"1.0 ", b"99999999999 ")),
    "PhotometricInterpretation": ("CS", (b"", b"MONOCHROME1 ", b"MONOCHROME2\0", b"monochrome2 ", b"PALETTE COLOR ",
                                         b"RGB ", b"YBR_FULL", b"\xff\xff")),
    "Modality": ("CS", (b"", b"MR", b"ct", b"CT\0\0", b"CT\\MR ", b"\xff\xff")),
    "SeriesInstanceUID": ("UI", (b"", b"1.2.3.4.5\0", b"no uid", b"1.2\\1.3 ")),
    "StudyInstanceUID": ("UI", (b"", b"9.9\0")),
    "SOPInstanceUID": ("UI", (b"", b"9.9\0")),
    "PatientID": ("LO", (b"", b"OTHER ", b"\xff\xfe\xfd ", b"a\\b ")),
    "RescaleType": ("LO", (b"US", b"HU")),
    "PixelPaddingValue": ("SS", (b"\x18\xfc",)),
    "PixelAspectRatio": ("IS", (b"2\\1 ",)),
    "SmallestImagePixelValue": ("SS", (b"\0\0",)),
    "SpecificCharacterSet": ("CS", (b"NO SUCH SET ", b"ISO_IR 192", b"\xff\xff")),
}  # fmt: skip
# A number under another representation; ITK and pydicom disagree on what it is then.
REPRESENTATIONS = {
    "RescaleSlope": ((b"2 ", "LO"), (b"2 ", "UN"), (b"2 ", "IS"), (b"\0\0\0\0\0\0\0\x40", "FD")),
    "RescaleIntercept": ((b"-1000 ", "LO"), (b"-1000 ", "UN"), (b"\0\0\x7a\xc4", "FL")),
    "Rows": ((b"\x14\0\0\0", "UL"), (b"20", "IS"), (b"\x14\0", "UN"), (b"\x14\0", "SS")),
    "PixelRepresentation": ((b"\1\0\0\0", "UL"), (b"0 ", "IS"), (b"\0\0", "UN")),
    "BitsStored": ((b"\x10\0\0\0", "UL"), (b"16", "CS")),
    "PixelSpacing": ((b"0.5\\0.75", "LO"), (b"0.5\\0.75", "UN")),
    "ImagePositionPatient": ((b"-50\\-40\\12 ", "LT"),),
}


def write_base_series(folder: Path, slices: int = 3) -> Path:
    """A series of small slices; its files do not follow the order of the slices."""
    return write_series(folder / "series", make_ct(slices, 20, 24), uid="1.2.3.4")


def put(path: Path, keyword: str, representation: str, value: bytes | None) -> None:
    """Write an attribute's bytes as they are; ``None`` removes it."""
    image = pydicom.dcmread(path)
    tag = Tag(tag_for_keyword(keyword))
    if value is None:
        image.pop(tag, None)
    else:
        image[tag] = RawDataElement(tag, representation, len(value), value, 0, False, True)
    image.save_as(path, enforce_file_format=False)


def _set_attribute(folder: Path, slices: int, which: int | None, keyword: str, vr: str, value: bytes | None) -> Path:
    series = write_base_series(folder, slices)
    paths = sorted(series.iterdir())
    for path in paths if which is None else [paths[which]]:
        put(path, keyword, vr, value)
    return series


def attribute_inputs() -> Iterator[Input]:
    """A series of one slice, and of three with one or all of them changed."""
    for keyword, (vr, values) in ATTRIBUTES.items():
        others = [(value, other) for value, other in REPRESENTATIONS.get(keyword, ())]
        for value, representation in [(None, vr), *((value, vr) for value in values), *others]:
            for slices, which in ((1, None), (3, 1), (3, None)):
                where = "one slice" if slices == 1 else "one of three slices" if which is not None else "three slices"
                yield Input(
                    f"{keyword} {value!r} ({representation}) in {where}",
                    partial(
                        _set_attribute, slices=slices, which=which, keyword=keyword, vr=representation, value=value
                    ),
                )


def _change_series(folder: Path, change: Callable[[Path], None], slices: int = 3) -> Path:
    series = write_base_series(folder, slices)
    change(series)
    return series


def _compress(series: Path, bits: int = 16) -> None:
    for path in series.iterdir():
        image = pydicom.dcmread(path)
        image.compress(RLELossless)
        image.BitsStored, image.HighBit = bits, bits - 1
        image.save_as(path)


def _shift(series: Path, millimetres: float) -> None:
    path = sorted(series.iterdir())[1]
    image = pydicom.dcmread(path)
    image.ImagePositionPatient = [float(image.ImagePositionPatient[0]) + millimetres, *image.ImagePositionPatient[1:]]
    image.save_as(path)


def _remove(series: Path, number: int) -> None:
    sorted(series.iterdir())[number].unlink()


def _double(series: Path) -> None:
    path = sorted(series.iterdir())[0]
    (series / "again").write_bytes(path.read_bytes())


def _cut(series: Path, share: float) -> None:
    path = sorted(series.iterdir())[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _replace(series: Path, content: bytes, name: str) -> None:
    (series / name).write_bytes(content)


def _use_signed(series: Path, signed: int) -> None:
    for path in series.iterdir():
        image = pydicom.dcmread(path)
        image.PixelRepresentation = signed
        image.save_as(path)


def _add_lut(series: Path) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    for path in series.iterdir():
        image, lut = pydicom.dcmread(path), Dataset()
        lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [4, 0, 16], "HU", bytes(8)
        lut["LUTDescriptor"].VR = "US"
        image.ModalityLUTSequence = Items([lut])
        image.save_as(path)


def series_inputs() -> Iterator[Input]:
    """Series that are odd as a whole."""
    changes: dict[str, Callable[[Path], None]] = {
        "untouched": lambda series: None,
        "run-length encoded": _compress,
        "run-length encoded, 12 of 16 bits": partial(_compress, bits=12),
        "a slice 20 mm to the side": partial(_shift, millimetres=20.0),
        "a slice 1 mm to the side": partial(_shift, millimetres=1.0),
        "the middle slice is missing": partial(_remove, number=2),
        "a slice twice": _double,
        "unsigned pixels": partial(_use_signed, signed=0),
        "a look-up table beside the slope": _add_lut,
        "a text beside it": partial(_replace, content=b"notes", name="notes.txt"),
        "a text called a slice": partial(_replace, content=b"notes", name="notes.dcm"),
        "an empty slice": partial(_replace, content=b"", name="empty.dcm"),
        "a slice of zeros": partial(_replace, content=bytes(4096), name="zeros.dcm"),
        "a preamble alone": partial(_replace, content=bytes(128) + b"DICM", name="preamble"),
        **{f"a slice cut at {share:.0%}": partial(_cut, share=share) for share in (0.01, 0.1, 0.2, 0.5, 0.9, 0.999)},
    }
    for name, change in changes.items():
        yield Input(f"series: {name}", partial(_change_series, change=change))


def byte_inputs(number: int) -> Iterator[Input]:
    """A series of one slice and one of three, with bytes of a header changed."""
    for seed in range(number):
        yield Input(f"series: bytes of a header changed by seed {seed}", partial(_change_header, seed=seed))


def _change_header(folder: Path, seed: int) -> Path:
    series = write_base_series(folder, slices=1 + 2 * (seed % 2))
    path = sorted(series.iterdir())[0]
    content = path.read_bytes()
    path.write_bytes(mutate(content, random.Random(seed), 128, len(content) - 20 * 24 * 2))
    return series


# -- NIfTI -------------------------------------------------------------------------------------------------------------

NIFTI_FIELDS: dict[str, Sequence[Any]] = {
    "sizeof_hdr": (0, 347, 540, 1543569408),
    "dim": ([0] * 8, [3, -12, 10, 4, 1, 1, 1, 1], [8, 12, 10, 4, 1, 1, 1, 1], [3, 32767, 32767, 32767, 1, 1, 1, 1],
            [3, 12, 10, 0, 1, 1, 1, 1], [2, 12, 10, 4, 1, 1, 1, 1], [4, 12, 10, 2, 2, 1, 1, 1],
            [3, 12, 10, 5, 1, 1, 1, 1], [5, 12, 10, 4, 1, 1, 1, 1],
            [1, 480, 1, 1, 1, 1, 1, 1], [7, 12, 10, 4, 0, 0, 0, 0]),
    "datatype": (0, 1, 2, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2304, 999, -4),
    "bitpix": (0, 8, 32, 17),
    "vox_offset": (0, 16, 351, 353, 368, 1e9, -352, np.nan, np.inf),
    "scl_slope": (0, 1, 2.5, -1, np.nan, np.inf, 1e38),
    "scl_inter": (-1024, np.nan, np.inf),
    "xyzt_units": (0, 1, 2, 3, 10, 255),
    "pixdim": ([1, 0, 1, 1, 0, 0, 0, 0], [1, -1, 1, 1, 0, 0, 0, 0], [1, np.nan, 1, 1, 0, 0, 0, 0],
               [0, 0.5, 0.5, 2, 0, 0, 0, 0], [2, 0.5, 0.5, 2, 0, 0, 0, 0], [-1, 0.5, 0.5, 2, 0, 0, 0, 0],
               [1, 1e20, 1, 1, 0, 0, 0, 0], [1, 1e-20, 1, 1, 0, 0, 0, 0]),
    "qform_code": (0, -1, 9, 32767),
    "sform_code": (0, -1, 9, 32767),
    "quatern_b": (0.9, 1.5, np.nan),
    "qoffset_x": (np.nan, np.inf, 1e30),
    "srow_x": ([0, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0.5, 0, 0], [1e-20, 0, 0, 0], [0.5, 0.2, 0, 0], [np.inf, 0, 0, 0],
               [-0.5, 0, 0, 9]),
    "magic": (b"ni1", b"n+2", b"", b"n+1x"),
    "intent_code": (1005, 1007, 2003, -1),
    "cal_max": (np.nan, 1e30),
    "slice_code": (99,),
}  # fmt: skip


def make_nifti() -> bytes:
    """A volume of 12 x 10 x 4 voxels of 0.5 x 0.75 x 2 mm."""
    voxels = make_ct(4, 10, 12).transpose(2, 1, 0)
    affine = np.diag([-0.5, -0.75, 2.0, 1.0])
    affine[:3, 3] = 50.0, 40.0, -10.0
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def set_field(content: bytes, name: str, value: Any, forms: str = "both") -> bytes:
    """A header's field set to a value, after nibabel has corrected the header; ``forms``: which affine it keeps."""
    header = nibabel.Nifti1Header(content[:348], check=False)
    if forms != "both":
        header["sform_code" if forms == "qform" else "qform_code"] = 0
    header[name] = value
    return header.binaryblock + content[348:]


def nifti_inputs(number: int) -> Iterator[Input]:
    """Fields of the header, then bytes, of a volume that is compressed or not; then an archive's own damages."""
    whole = make_nifti()
    for name, values in NIFTI_FIELDS.items():
        for value in values:
            for forms in ("both", "qform", "sform"):
                content = set_field(whole, name, value, forms)
                yield Input(
                    f"NIfTI: {name} {value!r}, affine of {forms}",
                    partial(_write_bytes, name="scan.nii", content=content),
                )
    for place, type_ in ((0, np.float32), (0, np.float64)):
        for value in (np.nan, np.inf, 1e30):
            voxels = np.zeros((6, 5, 3), type_)
            voxels.flat[place] = value
            content = nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()
            yield Input(
                f"NIfTI: voxel {value} of {type_.__name__}", partial(_write_bytes, name="scan.nii", content=content)
            )
    packed = gzip.compress(whole, mtime=0)
    odd = {
        "two members": packed + packed, "rubbish behind it": packed + b"rubbish", "not compressed": whole,
        "empty": b"", "half": packed[: len(packed) // 2], "without its check sum": packed[:-8],
        "wrong check sum": packed[:-8] + bytes(4) + packed[-4:],
    }  # fmt: skip
    for name, content in odd.items():
        yield Input(f"NIfTI: archive, {name}", partial(_write_bytes, name="scan.nii.gz", content=content))
    yield Input("NIfTI: an archive called .nii", partial(_write_bytes, name="scan.nii", content=packed))
    big = whole[:348]
    header = nibabel.Nifti1Header(big, check=False)
    header["dim"] = [3, 30000, 30000, 30000, 1, 1, 1, 1]
    yield Input(
        "NIfTI: an archive of few bytes that says it is of terabytes",
        partial(_write_bytes, name="scan.nii.gz", content=gzip.compress(header.binaryblock + bytes(9999))),
    )
    yield from mutations("scan.nii", whole, number, 0, 352)
    yield from mutations("scan.nii.gz", packed, number)


# -- pictures ----------------------------------------------------------------------------------------------------------


def make_picture(rows: int = 40, columns: int = 56, channels: int = 3) -> np.ndarray:
    """Smooth colours with an edge and noise, (H, W, C) uint8."""
    y, x = np.mgrid[:rows, :columns]
    smooth = np.stack([40 + 3 * x, 200 - 3 * y, 90 + x + y, 255 - 2 * x], axis=-1)[..., :channels]
    smooth[rows // 3 : rows // 2, columns // 4 : columns // 2] = 250
    return (smooth + np.random.default_rng(0).integers(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def make_png(array: np.ndarray, bits: int = 8, chunks: Sequence[tuple[bytes, bytes]] = (), colour: int | None = None,
             size: tuple[int, int] | None = None) -> bytes:  # fmt: skip
    """A PNG of samples (H, W) or (H, W, C), of 1, 2, 4, 8 or 16 bits, with chunks before its pixels."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if array.ndim == 2 else array.shape[2]] if colour is None else colour
    flat = array.reshape(len(array), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in flat]
    else:
        places = np.arange(bits)[::-1]
        rows = [np.packbits((row[:, None] >> places & 1).astype(np.uint8)).tobytes() for row in flat]
    height, width = size or array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def encode(array: np.ndarray, kind: str, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    return _bytes_of(lambda buffer: Image.fromarray(array).save(buffer, kind, **options))


def cut_scan(content: bytes, share: float) -> bytes:
    """A JPEG that lacks the end of its scan, and has its end marker all the same."""
    start = content.index(b"\xff\xda")
    return content[: start + 14 + int(share * (len(content) - start - 16))] + b"\xff\xd9"


def _orientation(number: Any) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def picture_files() -> Iterator[tuple[str, str, bytes]]:
    """What is odd, the file's name and its content."""
    rgb, grey = make_picture(), make_picture(channels=1)[..., 0]
    rgba = make_picture(channels=4)
    for bits in (1, 2, 4, 8, 16):
        values = grey.astype(np.uint16) * 257 >> 16 - bits
        yield f"PNG of {bits} grey bits", "a.png", make_png(values, bits)
        if bits < 16:
            palette = np.random.default_rng(1).integers(0, 256, (1 << bits, 3), dtype=np.uint8).tobytes()
            yield f"PNG palette of {bits} bits", "a.png", make_png(values, bits, [(b"PLTE", palette)], 3)
            yield f"PNG short palette of {bits} bits", "a.png", make_png(values, bits, [(b"PLTE", palette[:3])], 3)
    yield "PNG palette without a palette", "a.png", make_png(grey, 8, (), 3)
    for channels in (3, 4):
        yield (
            f"PNG of {channels} channels of 16 bits",
            "a.png",
            make_png(rgba[..., :channels].astype(np.uint16) * 257, 16),
        )
        yield f"PNG of {channels} channels", "a.png", make_png(rgba[..., :channels])
    yield "PNG with a transparent colour", "a.png", make_png(rgb, 8, [(b"tRNS", b"\0\x10\0\x20\0\x30")])
    yield "PNG with a gamma", "a.png", make_png(rgb, 8, [(b"gAMA", struct.pack(">I", 100000))])
    yield "PNG with a millimetre's resolution", "a.png", make_png(rgb, 8, [(b"pHYs", struct.pack(">IIB", 1, 2, 1))])
    yield "PNG with a bomb of text", "a.png", make_png(rgb, 8, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))])
    for size in ((0, 0), (1, 1), (40, 57), (41, 56), (39, 56), (2**31 - 1, 2**31 - 1), (30000, 30000), (40, 0)):
        yield f"PNG that says it is of {size}", "a.png", make_png(rgb, 8, size=size)
    yield "PNG of 3 bits", "a.png", make_png(grey // 32, 8).replace(b"\x08\0\0\0\0", b"\x03\0\0\0\0", 1)
    yield "PNG of one pixel", "a.png", make_png(rgb[:1, :1])
    for name in ("a.jpg", "a.bmp", "a.tif"):
        yield f"PNG called {name}", name, make_png(rgb)
    for kind, suffix in (
        ("GIF", "png"),
        ("WEBP", "png"),
        ("BMP", "png"),
        ("TIFF", "jpg"),
        ("PPM", "png"),
        ("ICO", "png"),
    ):
        yield f"{kind} called .{suffix}", f"a.{suffix}", encode(rgb, kind)
    yield (
        "PostScript called .png",
        "a.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    )
    yield (
        "grey GIF of two pages called .png",
        "a.png",
        encode(grey, "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)]),
    )
    for orientation in (*range(10), "6", b"\6", 65535):
        try:
            content = encode(rgb, "JPEG", quality=95, exif=_orientation(orientation))
        except (ValueError, TypeError, struct.error):
            continue
        yield f"JPEG with EXIF orientation {orientation!r}", "a.jpg", content
    yield "PNG with EXIF orientation 6", "a.png", encode(rgb, "PNG", exif=_orientation(6))
    yield "TIFF with orientation 3", "a.tif", encode(rgb, "TIFF", tiffinfo={274: 3})
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"quality": 30}):
        content = encode(rgb, "JPEG", **options)
        yield f"JPEG {options or ''}", "a.jpg", content
        for share in (0.0, 0.3, 0.9):
            yield (
                f"JPEG {options or ''} with an end marker after {share:.0%} of its scan",
                "a.jpg",
                cut_scan(content, share),
            )
    grey_jpeg = encode(grey, "JPEG")
    yield "grey JPEG", "a.jpg", grey_jpeg
    yield "grey JPEG with an end marker after half of its scan", "a.jpg", cut_scan(grey_jpeg, 0.5)
    yield "JPEG without an end marker", "a.jpg", grey_jpeg[:-2]
    yield "JPEG with rubbish behind it", "a.jpg", grey_jpeg + b"rubbish" * 99
    yield "JPEG twice", "a.jpg", grey_jpeg + grey_jpeg
    yield "CMYK JPEG", "a.jpg", _bytes_of(lambda buffer: Image.fromarray(rgb).convert("CMYK").save(buffer, "JPEG"))
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64):
        values = (grey.astype(float) / 2).astype(dtype)
        for order in "<>":
            content = _bytes_of(lambda buffer, v=values, o=order: tifffile.imwrite(buffer, v, byteorder=o))
            yield f"TIFF of {values.dtype} ({order})", "a.tif", content
    for name, array, options in (
        ("white is zero", grey, {"photometric": "miniswhite"}),
        ("16 bits, white is zero", grey.astype(np.uint16) * 200, {"photometric": "miniswhite"}),
        ("planes", rgb.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        ("16-bit colours", rgb.astype(np.uint16) * 257, {"photometric": "rgb"}),
        ("alpha", rgba, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        ("tiles", rgb, {"photometric": "rgb", "tile": (16, 16)}),
        ("deflate", rgb, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        ("two pages", np.stack([grey, 255 - grey]), {"photometric": "minisblack"}),
        ("a NaN", np.where(grey > 200, np.nan, grey).astype(np.float32), {}),
        ("fractions", (grey / 7).astype(np.float32), {}),
    ):
        yield f"TIFF: {name}", "a.tif", _bytes_of(lambda buffer, a=array, o=options: tifffile.imwrite(buffer, a, **o))


def picture_inputs(number: int) -> Iterator[Input]:
    """Odd pictures, then PNG, JPEG and TIFF with bytes changed or cut off."""
    for what, name, content in picture_files():
        yield Input(what, partial(_write_bytes, name=name, content=content))
    rgb = make_picture()
    for kind, name in (("PNG", "b.png"), ("JPEG", "b.jpg"), ("TIFF", "b.tif"), ("BMP", "b.bmp")):
        content = encode(rgb, kind)
        for length in (0, 1, 8, 33, len(content) // 2, len(content) - 20, len(content) - 1):
            yield Input(f"{kind} of {length} bytes", partial(_write_bytes, name=name, content=content[:length]))
        yield from mutations(name, content, number)


# -- JSON --------------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "../../x", "/etc/passwd", "x" * 5000, "a\0b",
    "\ud800", "$1/0", "@nothing", "%nothing.json", [], {}, [[]], {"a": {}}, [None], "cpu", 7, 2.5,
)  # fmt: skip
TEXTS = (
    b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe{\0}\0", b"[" * 100_000, b'{"a": ' * 50_000, b"{} {}",
    b"\xef\xbb\xbf{}", b"9" * 5000, b"{'a': 1}", b'{"a": NaN}', b"\0" * 50,
)  # fmt: skip


def change_value(content: Any, rng: random.Random) -> Any:
    """A copy with one value, at any depth, replaced or taken out, or with its key misspelt."""
    copy = json.loads(json.dumps(content))
    node, keys = copy, []
    while isinstance(node, (dict, list)) and len(node) and (not keys or rng.random() < 0.75):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        keys.append((node, key))
        node = node[key]
    if not keys:
        return rng.choice(VALUES)
    parent, key = keys[-1]
    what = rng.random()
    if what < 0.15:
        del parent[key]
    elif what < 0.25 and isinstance(parent, dict):
        parent[f"{key} "] = parent.pop(key)
    else:
        parent[key] = rng.choice(VALUES)
    return copy


def json_texts(content: Any, number: int) -> Iterator[tuple[str, bytes]]:
    """What was done, and the file's bytes: values of a JSON file changed, then bytes, then files that are no such."""
    for seed in range(number):
        changed = change_value(content, random.Random(seed))
        yield f"a value changed by seed {seed}", json.dumps(changed).encode()
    whole = json.dumps(content).encode()
    for seed in range(number // 4):
        yield f"bytes changed by seed {seed}", mutate(whole, random.Random(seed))
    for text in TEXTS:
        yield f"text {text[:20]!r}", text


# -- archives ----------------------------------------------------------------------------------------------------------


def make_archive(members: Iterable[tuple[str, bytes | None, dict[str, Any]]], mode: str = "w") -> bytes:
    """A tar of (name, content, fields of its header); without content it is whatever the fields say."""

    def write(buffer: io.BytesIO) -> None:
        with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as tar:
            for name, content, fields in members:
                info = tarfile.TarInfo(name)
                info.size = len(content or b"")
                for field, value in fields.items():
                    setattr(info, field, value)
                tar.addfile(info, None if content is None else io.BytesIO(content))

    return _bytes_of(write)


def archive_inputs(number: int) -> Iterator[Input]:
    """Archives of a folder of images and masks that try to leave it, or are damaged."""
    picture, mask = encode(make_picture(channels=1)[..., 0], "PNG"), encode(np.zeros((40, 56), np.uint8), "PNG")
    good = [
        (f"d/{part}/p{n}_0.png", content, {})
        for n in range(3)
        for part, content in (("images", picture), ("masks", mask))
    ]
    link = {"type": tarfile.SYMTYPE}
    bad = {
        "untouched": [],
        "a path out of it": [("../../evil.png", picture, {})],
        "an absolute path": [("/tmp/medseglatdiff-evil.png", picture, {})],
        "a link out of it, and a file behind it": [
            ("d/out.png", None, {**link, "linkname": "../../.."}), ("d/out.png/evil.png", picture, {}),
        ],
        "a hard link": [("d/images/hard.png", None, {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
        "a device": [("d/images/dev.png", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
        "a pipe": [("d/images/pipe.png", None, {"type": tarfile.FIFOTYPE})],
        "a file that is also a folder": [("d/images/p0_0.png/x.png", picture, {})],
        "a name that is too long": [("d/images/" + "x" * 300 + ".png", picture, {})],
        "a name with a NUL": [("d/images/a\0b.png", picture, {"pax_headers": {"path": "d/images/a\0b.png"}})],
        "no name": [("", picture, {})],
        "a name twice": [("d/images/p0_0.png", picture, {})],
        "an evil case id": [("d/images/..-..-evil.png", picture, {}), ("d/masks/..-..-evil.png", mask, {})],
        "a case id of spaces": [("d/images/   .png", picture, {}), ("d/masks/   .png", mask, {})],
        "a case id of 250 letters": [(f"d/{part}/{'x' * 250}.png", picture if part == "images" else mask, {})
                                     for part in ("images", "masks")],
        "a negative date": [("d/images/old.png", picture, {"mtime": -5}), ("d/masks/old.png", mask, {"mtime": 1e14})],
        "odd rights": [("d/images/no.png", picture, {"mode": 0}), ("d/masks/no.png", mask, {"mode": 0o7777})],
    }  # fmt: skip
    for name, members in bad.items():
        content = make_archive([*good, *members])
        yield Input(f"archive: {name}", partial(_write_bytes, name="data.tar", content=content))
    for mode, suffix in (("w", "tar"), ("w:gz", "tar.gz"), ("w:xz", "tar.xz")):
        content = make_archive(good, mode)
        yield Input(
            f"archive: half of a .{suffix}",
            partial(_write_bytes, name=f"data.{suffix}", content=content[: len(content) // 2]),
        )
        yield from mutations(f"data.{suffix}", content, number)
