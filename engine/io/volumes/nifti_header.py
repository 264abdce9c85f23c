"""The header of a NIfTI file (nifti1.h, nifti2.h): where its voxels are, and what they mean.

As in dicom.py, no value of the header goes into an error or a warning: its free texts may name a
patient. They are not read.
"""

import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from medfocus.errors import ImageError

_HEADERS: dict[int, type[Nifti1Header]] = {348: Nifti1Header, 540: Nifti2Header}
_MOST_RATIO = 1e4  # of a voxel's sides
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_RESAVE = "save it again as one .nii or .nii.gz file, of integers, floats or RGB"


class NiftiHeader(NamedTuple):
    """What is used of a header.

    Attributes:
        shape: (X, Y, Z, T): T volumes, of X × Y × Z voxels.
        dtype: of a stored voxel; (3,) of uint8 for RGB.
        offset: of the first voxel in the file, inflated if it is compressed, in bytes.
        slope, inter: a voxel's value is slope × stored + inter.
        window: the lowest and the highest value to show, if the file says so.
        affine: (4, 4), from voxel indices to millimetres rightward, forward and upward.
        oriented: whether the file says where right, front and top are.
    """

    shape: tuple[int, int, int, int]
    dtype: "np.dtype[Any]"
    offset: int
    slope: float
    inter: float
    window: tuple[float, float] | None
    affine: NDArray[np.float64]
    oriented: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file, inflated, if nothing follows its voxels."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def colour(self) -> bool:
        """Whether the voxels are RGB."""
        return self.dtype.shape == (3,)


def read_header(file: BinaryIO, name: str) -> NiftiHeader:
    """Read the header of a NIfTI file that stands at its start.

    Raises:
        ImageError: half of a pair of files (.hdr and .img), complex or of another unsupported
            type, more than four axes (`image.unsupported`), or damaged (`image.damaged`).
    """
    start = file.read(4)
    sizes = [int.from_bytes(start, order) for order in ("little", "big")]
    kind = _HEADERS.get(min(sizes))
    length = min(sizes) - 4
    block = start + file.read(length) if kind else b""
    if kind is None or len(block) != length + 4:
        raise damaged(name)
    try:
        # Without nibabel's check, which logs what it finds; its values are looked at below.
        header = kind(block, "<" if sizes[0] < sizes[1] else ">", check=False)
        return _checked(header, name)
    except ImageError:
        raise
    except Exception:  # its text may quote the header
        raise damaged(name) from None


def damaged(name: str) -> ImageError:
    """The error of a file that is no whole NIfTI file."""
    hint = "copy the file again, or write it again"
    return ImageError(name, "is damaged, or no NIfTI file", hint, code="image.damaged")


def unsupported(name: str, problem: str) -> ImageError:
    """The error of a file of a kind that is not read."""
    return ImageError(name, problem, _RESAVE, code="image.unsupported")


def _checked(header: Nifti1Header, name: str) -> NiftiHeader:
    if bytes(header["magic"]).startswith(b"ni"):
        raise unsupported(name, "is the header of a pair of files, and holds no voxels")
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise damaged(name)
    sizes = [int(size) for size in header["dim"][1 : count + 1]]
    if min(sizes) < 1:
        raise damaged(name)
    if math.prod(sizes[4:]) > 1:
        raise unsupported(name, "has more than four axes: vectors or tensors, and no images")
    x, y, z, t, *_ = (*sizes, 1, 1, 1)
    dtype = _RGB if int(header["datatype"]) == 128 else header.get_data_dtype()
    if dtype == _RGB:
        dtype = np.dtype(("u1", (3,)))
    elif dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise unsupported(name, "its voxels are complex, or of another type that has no grey level")
    offset = int(header["vox_offset"])
    if offset < 0:
        raise damaged(name)
    affine, oriented = _affine(header)
    slope, inter = _scale(header)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    usable = math.isfinite(low) and math.isfinite(high) and low < high
    window = (low, high) if usable else None
    return NiftiHeader((x, y, z, t), dtype, offset, slope, inter, window, affine, oriented)


def _scale(header: Nifti1Header) -> tuple[float, float]:
    """A slope of 0 means that there is no scale (nifti1.h, DATA SCALING)."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(inter):
        return 1.0, 0.0
    return slope, inter


def _affine(header: Nifti1Header) -> tuple[NDArray[np.float64], bool]:
    """The sform, or else the qform, or else the spacings alone; and whether it is one of the first.

    nifti1.h, ORIENTATION AND LOCATION IN SPACE.
    """
    coded = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    try:
        affine = np.asarray(header.get_best_affine(), np.float64) if coded else None
    except Exception:  # a quaternion that is none
        affine = None
    if affine is not None and _is_usable(affine):
        return affine, True
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    sizes[~(np.isfinite(sizes) & (sizes > 0))] = 1.0
    spacings = np.diag([*sizes, 1.0])
    return (spacings if _is_usable(spacings) else np.eye(4)), False


def _is_usable(affine: NDArray[np.float64]) -> bool:
    """Whether each stored axis is along another one of the body, and sizes are of one scale."""
    if not np.isfinite(affine).all():
        return False
    sizes = voxel_sizes(affine)
    scaled = sizes.min() > 0 and sizes.max() < _MOST_RATIO * sizes.min()
    return bool(scaled and np.isfinite(io_orientation(affine)).all())
