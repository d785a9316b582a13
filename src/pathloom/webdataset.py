"""WebDataset: pairs of picture and caption in tar files, written, and read at any place.

A pair is a run of members with one key: the path up to the first dot of the file name. `KEY.jpg` (or another of
IMAGE_SUFFIXES) is its picture, `KEY.txt` its caption, `KEY.json` what else is known of it; other members are passed
over. That is how the webdataset library groups them, so its readers, open_clip's among them, open the same files.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from pathloom.stage import UserError, write_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp")
"""Suffixes that are read as the picture. open_clip's own reader takes the first four only."""

OPEN_CLIP_SUFFIXES = IMAGE_SUFFIXES[:4]
"""What `open_clip_train.data.filter_no_caption_or_no_image` takes for a picture, and ShardWriter writes."""

SIZES_FILE = "sizes.json"
"""Pairs of each shard by its file name, as `open_clip_train.data.get_dataset_size` reads it."""

# The rule of webdataset.tariterators.base_plus_ext: folders may hold dots, a file name begins with none.
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK_BYTES = tarfile.BLOCKSIZE

Span = tuple[int, int]
"""Byte at which a member's content begins in its tar, and its length in bytes."""

NOTHING: Span = (0, 0)


@dataclass(frozen=True)
class TarIndex:
    """Where the pairs of one tar lie in it. `images`, `captions` and `facts` are int64 [pairs, 2]: byte and length.

    `facts` is the .json, of length 0 where there is none. `suffixes` are the pictures', lower case, without dot.
    `faults` are (key, or name of the tar; reason) of what is no pair: cut_off, damaged, not_a_tar, no_image,
    no_caption, two_images, two_captions, empty.
    """

    path: Path
    keys: tuple[str, ...]
    images: NDArray[np.int64]
    captions: NDArray[np.int64]
    facts: NDArray[np.int64]
    suffixes: tuple[str, ...]
    faults: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class _Run:
    """The members of one key, while they are read."""

    key: str
    images: list[tuple[str, Span]] = field(default_factory=list)
    captions: list[Span] = field(default_factory=list)
    facts: Span = NOTHING

    def add(self, suffix: str, span: Span) -> None:
        if suffix in IMAGE_SUFFIXES:
            self.images.append((suffix, span))
        elif suffix == "txt":
            self.captions.append(span)
        elif suffix == "json":
            self.facts = span

    @property
    def fault(self) -> str | None:
        """Why this is no pair; of several reasons the first."""
        if len(self.images) != 1:
            return "two_images" if self.images else "no_image"
        if len(self.captions) != 1:
            return "two_captions" if self.captions else "no_caption"
        if not self.images[0][1][1] or not self.captions[0][1]:
            return "empty"
        return None


def index_tar(path: Path) -> TarIndex:
    """Find the pairs of a tar by its headers; no content is read.

    A tar that ends too early gives its pairs before the cut. The key at the cut is a fault even if picture and caption
    are there: its .json, which may name the patient, could have followed. Raises UserError for a packed tar, in which
    nothing can be read at its place, and OSError for a file that is not there.
    """
    refuse_packed(path)
    size_bytes = path.stat().st_size
    runs: list[_Run] = []
    with path.open("rb") as file:
        for key, suffix, span in (members := _Members(file, size_bytes)):
            if not runs or runs[-1].key != key or _begins_again(runs[-1], suffix):
                runs.append(_Run(key))
            runs[-1].add(suffix, span)
    faults: list[tuple[str, str]] = []
    if members.fault is not None:
        at_the_cut = runs.pop().key if runs and members.fault != "not_a_tar" else path.name
        faults.append((at_the_cut, members.fault))
    whole = [run for run in runs if run.fault is None]
    return TarIndex(
        path=path,
        keys=tuple(run.key for run in whole),
        images=_spans([run.images[0][1] for run in whole]),
        captions=_spans([run.captions[0] for run in whole]),
        facts=_spans([run.facts for run in whole]),
        suffixes=tuple(run.images[0][0] for run in whole),
        faults=(*((run.key, run.fault) for run in runs if run.fault is not None), *faults),
    )


def _begins_again(run: _Run, suffix: str) -> bool:
    """A second pair under the key of the one before it, whole already: its reader decides about repeated ids."""
    again = (suffix in IMAGE_SUFFIXES and run.images) or (suffix == "txt" and run.captions)
    return bool(again) and run.fault is None


def _spans(spans: Sequence[Span]) -> NDArray[np.int64]:
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def refuse_packed(path: Path) -> None:
    """Raise UserError for a compressed file, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            raise UserError(
                f"{path}: packed with {name}, so that no pair can be read at its place; unpack it to a plain .tar"
            )


class _Members:
    """(key, suffix in lower case, span) of the plain files of a tar; `fault` says afterwards why it ended early."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.fault: str | None = None

    def __iter__(self) -> Iterator[tuple[str, str, Span]]:
        try:
            tar = tarfile.TarFile(fileobj=self.file)
        except tarfile.ReadError:
            self.fault = "not_a_tar" if self.size_bytes >= _BLOCK_BYTES else "cut_off"
            return
        with tar:
            while (member := self._next(tar)) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all, which costs 1 kB each
                if member.size < 0:  # tarfile would go back and read the same members for ever
                    self.fault = "damaged"
                    return
                match = _KEY_AND_SUFFIX.match(member.name)
                if match is None or not member.isfile() or member.issparse():
                    continue
                if member.name.startswith("__"):  # webdataset's own notes
                    continue
                cut = member.offset_data + member.size > self.size_bytes
                # A member that is cut names its key, so that the fault is laid to it, and has no content.
                yield match[1], "" if cut else match[2].lower(), (member.offset_data, member.size)
            if self.fault is None:
                self.fault = self._fault_at(tar.offset)

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        try:
            return tar.next()
        except tarfile.ReadError:  # the last member's content is cut
            self.fault = "cut_off"
            return None

    def _fault_at(self, offset: int) -> str | None:
        """tarfile stops in silence at whatever is no header; a whole tar has a block of zeros there."""
        self.file.seek(offset)
        block = self.file.read(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES:
            return "cut_off"
        return "damaged" if any(block) else None


def read_span(file: BinaryIO, span: Sequence[int] | NDArray[np.int64]) -> bytes:
    """The content of a member of the open tar. Raises UserError where the file has become shorter."""
    start, length = int(span[0]), int(span[1])
    file.seek(start)
    content = file.read(length)
    if len(content) != length:
        name = getattr(file, "name", "the tar")
        raise UserError(
            f"{name}: ends before byte {start + length}; do not change shards while they are read"
        )
    return content


class ShardWriter:
    """Writes pairs to `folder`/00000.tar and so on, `per_shard` in each, and their numbers to sizes.json.

    A shard is whole or absent: it is written under another name, brought to the disk and renamed; sizes.json follows
    after each. `start` is the first shard's number, for going on where whole shards are there already; `shard` is that
    of the one being written. Names, keys (shard in 5 digits, index in 4) and members follow Patho-R1's released script.
    The same pairs give the same bytes.
    """

    def __init__(self, folder: Path, per_shard: int = 5000, *, start: int = 0) -> None:
        if not 1 <= per_shard <= 9999:
            raise UserError(
                f"per_shard: {per_shard} is not within 1 to 9999: a key has 4 digits for the index"
            )
        self.folder = folder
        self.per_shard = per_shard
        folder.mkdir(parents=True, exist_ok=True)
        self.shard = start
        self._count = 0
        self._tar: tarfile.TarFile | None = None
        self._file: BinaryIO | None = None
        self.sizes: dict[str, int] = read_sizes(folder) if start else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_shard()
            self._write_sizes()
        elif self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self.shard:05d}.partial"

    def add(self, image: bytes, suffix: str, caption: str, facts: Mapping[str, Any]) -> str:
        """Append one pair and return its key. `facts` go into the .json behind caption and key."""
        if suffix not in OPEN_CLIP_SUFFIXES:
            raise ValueError(f"suffix {suffix!r} is none of {', '.join(OPEN_CLIP_SUFFIXES)}")
        if self._tar is None:
            self._file = self._partial.open("wb")
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        key = f"{self.shard:05d}{self._count:04d}"
        told = json.dumps({"caption": caption, "key": key, **facts}, ensure_ascii=False, allow_nan=False)
        for ending, content in ((suffix, image), ("txt", caption.encode()), ("json", told.encode())):
            member = tarfile.TarInfo(f"{key}.{ending}")  # time 0, no owner: bytes depend on the pairs alone
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._tar.members = []  # type: ignore[attr-defined]
        self._count += 1
        if self._count == self.per_shard:
            self._finish_shard()
        return key

    def _finish_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.folder / f"{self.shard:05d}.tar")
        self.sizes[f"{self.shard:05d}.tar"] = self._count
        self._write_sizes()
        self._tar = self._file = None
        self.shard, self._count = self.shard + 1, 0

    def _write_sizes(self) -> None:
        partial = self.folder / f"{SIZES_FILE}.partial"
        write_json(self.sizes, partial)
        partial.replace(self.folder / SIZES_FILE)


def read_sizes(folder: Path) -> dict[str, int]:
    """Pairs of each shard, by file name in order. Raises UserError where the folder has no sizes.json."""
    path = folder / SIZES_FILE
    if not path.is_file():
        raise UserError(f"{path}: not there; a stage `webdataset` writes it")
    return {name: int(count) for name, count in sorted(json.loads(path.read_text()).items())}
