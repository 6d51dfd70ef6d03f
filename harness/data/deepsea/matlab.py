"""Large arrays in MATLAB files, read a block of samples at a time: HDF5 (v7.3) and v5 files alike.

Shapes are in C order, the reverse of MATLAB's: an array of samples x channels x positions is
`[positions, channels, samples]`, and a block is `[:, :, start:stop]`. v5 files are read here because scipy loads
a whole array (format: "MAT-File Format", The MathWorks, section 1).
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError

V5_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
STEP = 1 << 20


class SampleArray:
    """One array of a MATLAB file, open for reading. Use as a context manager.

    Args:
        path: The file.
        variable: Name of the array in it.
        scratch: Folder for the decompressed bytes of a compressed v5 array, in an unlinked temporary file.

    Attributes:
        shape: The array's shape, samples last.
        chunk: Samples that are read together most efficiently; 1 if it makes no difference.

    Raises:
        InputError: If the file is missing, is not a MATLAB file, is truncated, or lacks the array.
    """

    def __init__(self, path: Path, variable: str, scratch: Path | None = None) -> None:
        self.path, self.variable = path, variable
        self._stack = ExitStack()
        self._set: Any = None
        self.chunk = 1
        try:
            with path.open("rb") as file:
                head = file.read(128)
            if h5py.is_hdf5(path):
                self._open_hdf5()
            elif len(head) == 128 and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
                self._open_v5("<" if head[126:] == b"IM" else ">", scratch)
            else:
                raise InputError(
                    f"{path}: must be a MATLAB file (v5 or v7.3), but its first bytes are not those of one."
                )
        except OSError as error:
            self.close()
            raise InputError(f"{path}: cannot be read ({_reason(error)}).") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SampleArray":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and delete the scratch file."""
        self._stack.close()

    def read(self, start: int, stop: int, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """Samples `start` to `stop` of the rows `first` to `last` of the first axis.

        Raises:
            InputError: If the file ends early or its data is damaged.
        """
        last = self.shape[0] if last is None else last
        try:
            if self._set is not None:
                return np.asarray(self._set[first:last, ..., start:stop])
            return self._read_v5(start, stop, first, last)
        except OSError as error:
            raise InputError(
                f"{self.path}: samples {start:,} to {stop:,} of `{self.variable}` cannot be read "
                f"({_reason(error)})."
            ) from None

    # --- v7.3 -------------------------------------------------------------------------------------------

    def _open_hdf5(self) -> None:
        file = self._stack.enter_context(h5py.File(self.path, "r"))
        found = file.get(self.variable)
        if not isinstance(found, h5py.Dataset):
            raise self._lacks([name for name, item in file.items() if isinstance(item, h5py.Dataset)])
        self._set, self.shape = found, tuple(found.shape)
        self.dtype = found.dtype
        if found.chunks:
            self.chunk = found.chunks[-1]

    def _lacks(self, names: list[str]) -> InputError:
        return InputError(
            f"{self.path}: must hold `{self.variable}`, but holds {', '.join(names) or 'no array'}."
        )

    # --- v5 ---------------------------------------------------------------------------------------------

    def _open_v5(self, endian: str, scratch: Path | None) -> None:
        self._endian = endian
        file = self._stack.enter_context(self.path.open("rb"))
        size = os.fstat(file.fileno()).st_size
        at, names = 128, []
        while at + 8 <= size:
            file.seek(at)
            kind, length = struct.unpack(f"{endian}II", file.read(8))
            if at + 8 + length > size:
                raise InputError(
                    f"{self.path}: is truncated: it must have {at + 8 + length:,} bytes, but has {size:,}."
                )
            name = self._try_array(file, kind, length, scratch)
            if name == self.variable:
                return
            names.append(name)
            at += 8 + length
        raise self._lacks(names)

    def _try_array(self, file: IO[bytes], kind: int, length: int, scratch: Path | None) -> str:
        """Name of the array at the file's position; it is opened if it is the requested one."""
        start = file.tell()
        if kind == COMPRESSED:
            stream = _Inflater(file, length, self.path)
            kind, length = struct.unpack(f"{self._endian}II", stream.take(8))
            head = stream.take(min(length, 512))
        else:
            stream, head = None, file.read(min(length, 512))
        if kind != MATRIX:
            return "?"
        name, shape, dtype, data, bytes_ = self._header(head)
        if name != self.variable:
            return name
        if bytes_ != int(np.prod(shape)) * dtype.itemsize or data + bytes_ > length:
            raise InputError(
                f"{self.path}: `{name}` must be a full numeric array, but its size does not fit."
            )
        self.shape, self.dtype = shape, dtype
        if stream is None:
            self._file, self._at = file, start + data
        else:
            scratch_file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed with the array
            self._file, self._at = self._stack.enter_context(scratch_file), 0
            self._file.write(head[data:][:bytes_])
            for piece in stream.pieces(bytes_ - len(head[data:][:bytes_])):
                self._file.write(piece)
            stream.finish()
            self._file.flush()
        return name

    def _header(self, head: bytes) -> tuple[str, tuple[int, ...], np.dtype[Any], int, int]:
        """Name, shape, element type, offset and bytes of the data of a matrix whose first bytes are `head`."""
        at, parts = 0, []
        try:
            for _ in range(3):
                _, length, start = self._tag(head, at)
                parts.append(head[start : start + length])
                at = start + length + (-(start + length)) % 8
            kind, length, start = self._tag(head, at)
        except struct.error:
            raise InputError(f"{self.path}: is damaged: an array's header is incomplete.") from None
        shape = np.frombuffer(parts[1], dtype=f"{self._endian}i4")
        dtype = np.dtype(f"{self._endian}{V5_TYPES.get(kind, 'u1')}")
        name = parts[2].decode("latin-1")
        return name, tuple(int(n) for n in reversed(shape)), dtype, start, length

    def _tag(self, head: bytes, at: int) -> tuple[int, int, int]:
        """Type, bytes and offset of the data of the element at `at`; small elements store their data in the tag."""
        (first,) = struct.unpack_from(f"{self._endian}I", head, at)
        if first >> 16:
            return first & 0xFFFF, first >> 16, at + 4
        (length,) = struct.unpack_from(f"{self._endian}I", head, at + 4)
        return first, length, at + 8

    def _read_v5(self, start: int, stop: int, first: int, last: int) -> NDArray[Any]:
        shape = (last - first, *self.shape[1:-1], stop - start)
        block = np.empty(shape, dtype=self.dtype)
        lines = block.reshape(-1, stop - start)
        per, samples = int(np.prod(self.shape[1:-1], dtype=np.int64)), self.shape[-1]
        for i, line in enumerate(lines):
            offset = self._at + ((first * per + i) * samples + start) * self.dtype.itemsize
            if os.preadv(self._file.fileno(), [line.view(np.uint8).data], offset) != line.nbytes:
                raise OSError("the file ends early")
        return block


class _Inflater:
    """A compressed element of a v5 file, decompressed on the fly."""

    def __init__(self, file: IO[bytes], length: int, path: Path) -> None:
        self._file, self._left, self._path = file, length, path
        self._zlib = zlib.decompressobj()
        self._tail = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes in pieces."""
        while count:
            piece = self._inflate(min(count, 4 * STEP))
            if not piece and self._is_over():
                raise InputError(f"{self._path}: is damaged: a compressed array ends early.")
            count -= len(piece)
            yield piece

    def finish(self) -> None:
        """Read to the end, which verifies the checksum."""
        while not self._zlib.eof:
            if not self._inflate(STEP) and not self._zlib.eof and self._is_over():
                raise InputError(f"{self._path}: is damaged: a compressed array ends early.")

    def _inflate(self, most: int) -> bytes:
        if not self._tail and self._left:
            self._tail = self._file.read(min(STEP, self._left))
            self._left -= len(self._tail)
        try:
            piece = self._zlib.decompress(self._tail, most)
        except zlib.error as error:
            raise InputError(f"{self._path}: is damaged: {error}.") from None
        self._tail = self._zlib.unconsumed_tail
        return piece

    def _is_over(self) -> bool:
        return self._zlib.eof or not (self._tail or self._left)


def _reason(error: OSError) -> str:
    """The message of an operating-system or HDF5 error, on one line."""
    return (error.strerror or " ".join(str(error).split())) if error.errno else " ".join(str(error).split())
