"""A bounded reader for files whose stated lengths cannot be trusted."""

from __future__ import annotations

from typing import BinaryIO

from langchain_gpu.models.info import HeaderError

_CHUNK = 1 << 20


class BoundedReader:
    """A part of a file in memory; no more is read than the file has left.

    Args:
        file: Read forward only, in pieces of up to 1 MiB where no single value is longer.
        size: Bytes it may have: the file's, or fewer.
        name: What errors call it.
    """

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.size = size
        self.name = name
        self._file = file
        self._window = b""
        self._at = 0  # in the window
        self._read = 0  # bytes of the file read so far

    def position(self) -> int:
        """Return the place in the file."""
        return self._read - len(self._window) + self._at

    def left(self) -> int:
        """Return how many bytes follow."""
        return self.size - self.position()

    def uint32(self) -> int:
        """Take a number of four bytes."""
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        """Take a number of eight bytes."""
        return int.from_bytes(self.take(8), "little")

    def text(self, longest: int, what: str) -> str:
        """Take a text: its length in eight bytes, then UTF-8.

        Raises:
            HeaderError: It is longer than `longest` or than the file, or no UTF-8.
        """
        length = self.uint64()
        if length > longest or length > self.left():
            raise self.error(f"{what} claims {length:,} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no UTF-8") from error

    def take(self, count: int) -> bytes:
        """Take `count` bytes.

        Raises:
            HeaderError: The file has fewer left.
        """
        if self._at + count > len(self._window):
            self._fill(count)
        self._at += count
        return self._window[self._at - count : self._at]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes.

        Raises:
            HeaderError: The file has fewer left.
        """
        while (rest := len(self._window) - self._at) < count:
            count -= rest
            self._at += rest
            self._fill(1)
        self._at += count

    def skip_texts(self, count: int, key: str) -> None:
        """Pass over `count` texts of the list `key`.

        A vocabulary has hundreds of thousands of short ones, so the window is walked directly.

        Raises:
            HeaderError: The file ends before they do.
        """
        for _ in range(count):
            at = self._at
            if at + 8 > len(self._window):
                self._fill(8)
                at = self._at
            length = int.from_bytes(self._window[at : at + 8], "little")
            self._at = at + 8
            if self._at + length <= len(self._window):
                self._at += length
            elif length > self.left():
                raise self.error(f"a text of {key!r} claims {length:,} bytes, more than are left")
            else:
                self.skip(length)

    def error(self, reason: str) -> HeaderError:
        """Build the error that names the file."""
        return HeaderError(f"{self.name} has no header that can be read: {reason}")

    def _fill(self, count: int) -> None:
        """Have `count` more bytes in the window."""
        if count > self.left():
            raise self.error(f"its header goes on past byte {self.size:,}, the last it may have")
        kept = [self._window[self._at :]]
        have = len(kept[0])
        while have < count:
            piece = self._file.read(min(max(_CHUNK, count - have), self.size - self._read))
            if not piece:
                raise self.error(f"it ends at byte {self._read:,}, within its header")
            kept.append(piece)
            have += len(piece)
            self._read += len(piece)
        self._window, self._at = b"".join(kept), 0


__all__ = ["BoundedReader"]
