"""Frames out of a 4D NIfTI file, one at a time, in constant memory.

The file is read front to back once: header, then each volume into one reused buffer, from which only the
voxels asked for are taken. `.nii.gz` is inflated by isal, about twice as fast as zlib, and read to its very
end so that the checksum is verified (a volume cut short or altered is refused, not averaged).
"""

import contextlib
import gzip
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True, eq=False)
class BoldFile:
    """What the header of a 4D NIfTI file says, checked.

    shape : (x, y, z, n_frames); affine : voxel to mm; data are `raw * slope + inter`
    header_t_r : s as written in the header, None where the unit is unknown or the value not positive
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    offset: int  # bytes before the first volume
    slope: float
    inter: float
    header_t_r: float | None

    @property
    def n_frames(self) -> int:
        """Volumes in the file, T."""
        return self.shape[3]


def open_bold(path: Path) -> BoldFile:
    """Read and check the header; raises InputError for anything but an oriented, real-valued 4D volume."""
    image = _load_header(path)
    shape = image.shape
    if len(shape) != 4 or shape[3] < 2:
        raise InputError(
            f"{path} must be a 4D series of volumes, got shape {shape}.",
            hint="Give the BOLD run, not an anatomical image, mask or single volume.",
        )
    header = image.header
    affine = checked_affine(
        image, path, hint="Use the normalised output of fMRIPrep, FSL or SPM, or restore the original header."
    )
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels; integer or real ones are needed.")
    data = cast(Any, image.dataobj)  # header["vox_offset"] is 0 after loading; the proxy keeps the real one
    return BoldFile(
        path,
        (int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3])),
        affine,
        dtype.newbyteorder(header.endianness),
        int(data.offset),
        float(data.slope),
        float(data.inter),
        _header_t_r(header),
    )


def checked_affine(image: nib.Nifti1Image, path: Path, *, hint: str) -> NDArray[np.float64]:
    """Voxel to mm, (4, 4). InputError where the header says no orientation (`hint`: the fix), or singular."""
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        raise InputError(
            f"{path} has no orientation: qform_code and sform_code are both 0, left and right are unknown.",
            hint=hint,
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InputError(f"{path} has an affine that cannot be inverted: {affine[:3].tolist()}.")
    return affine


def _load_header(path: Path) -> nib.Nifti1Image:
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file.")
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a readable NIfTI file ({error}).", hint=_COPY_AGAIN) from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path} is {type(image).__name__}, not NIfTI.", hint="Give .nii or .nii.gz files.")
    return image


_COPY_AGAIN = "Copy or convert the file again."


def _header_t_r(header: Any) -> float | None:
    unit = _SECONDS.get(header.get_xyzt_units()[1])
    t_r = float(header.get_zooms()[3])
    return t_r * unit if unit is not None and np.isfinite(t_r) and t_r > 0 else None


def stream_frames(
    bold: BoldFile,
    voxels: NDArray[np.intp],
    *,
    look: Callable[[int, NDArray[Any]], None] | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Yield, frame by frame, the raw values (n_voxels,) float64 at `voxels` (Fortran-order positions).

    The array is reused: take what you need before asking for the next. Apply `slope` and `inter` afterwards.
    `look(frame, volume)` is shown each whole raw volume (x * y * z,) in Fortran order, reused likewise.
    Raises InputError when the file is truncated or its checksum is wrong.
    """
    n_voxels = int(np.prod(bold.shape[:3]))
    volume = np.empty(n_voxels, dtype=bold.dtype)
    taken = np.empty(len(voxels), dtype=bold.dtype)
    values = np.empty(len(voxels), dtype=np.float64)
    buffer = volume.view(np.uint8).data
    try:
        with _open_bytes(bold.path) as stream:
            _skip(stream, bold.offset)
            for frame in range(bold.n_frames):
                if _read_into(stream, buffer) < len(buffer):
                    raise InputError(
                        f"{bold.path} is truncated: its header says {bold.n_frames} volumes, "
                        f"it ends within volume {frame + 1}.",
                        hint=_COPY_AGAIN,
                    )
                if look is not None:
                    look(frame, volume)
                np.take(volume, voxels, out=taken)
                values[:] = taken  # to float64, and to the machine's byte order
                yield values
            stream.read(1)  # past the last volume: makes gzip check its CRC
    except (OSError, EOFError, zlib.error) as error:  # isal's own error is an OSError
        raise InputError(f"{bold.path} is damaged ({error}).", hint=_COPY_AGAIN) from error


@contextlib.contextmanager
def _open_bytes(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as raw:
        compressed = (
            raw.read(2) == b"\x1f\x8b"
        )  # by content: some .nii.gz are not compressed, and the reverse
        raw.seek(0)
        if not compressed:
            yield raw
            return
        from isal import igzip

        with igzip.IGzipFile(fileobj=raw, mode="rb") as inflated:  # type: ignore[no-untyped-call]
            yield cast(BinaryIO, inflated)


def _skip(stream: BinaryIO, n_bytes: int) -> None:
    while n_bytes > 0:
        block = stream.read(min(n_bytes, 1 << 20))
        if not block:
            return  # the volume that follows is found truncated
        n_bytes -= len(block)


def _read_into(stream: BinaryIO, buffer: memoryview) -> int:
    """Fill the buffer; short reads are normal for compressed streams. Returns the bytes got."""
    got = 0
    while got < len(buffer):
        n = cast(gzip.GzipFile, stream).readinto(buffer[got:])
        if not n:
            break
        got += n
    return got
