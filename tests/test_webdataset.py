"""WebDataset tars: what is written opens elsewhere, what is broken is named."""

import gc
import gzip
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.fixtures import encoded

from pathloom.stage import UserError
from pathloom.webdataset import SIZES_FILE, ShardWriter, TarIndex, index_tar, read_sizes, read_span


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def pair(key: str, caption: str = "Liver.", ending: str = "png") -> list[tuple[str, bytes]]:
    return [(f"{key}.{ending}", encoded()), (f"{key}.txt", caption.encode()), (f"{key}.json", b"{}")]


def pack(folder: Path, number: int, per_shard: int = 4) -> None:
    with ShardWriter(folder, per_shard) as writer:
        for index in range(number):
            writer.add(encoded(index), "png", f"Caption {index}, Sjögren.", {"sample_id": f"s{index}"})


def test_what_is_written_is_found_again_byte_by_byte(tmp_path):
    pack(tmp_path, 6)
    indexes = [index_tar(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert [index.keys for index in indexes] == [
        ("000000000", "000000001", "000000002", "000000003"),
        ("000010000", "000010001"),
    ]
    assert all(index.faults == () for index in indexes)
    index = indexes[1]
    with index.path.open("rb") as file:
        assert read_span(file, index.images[1]) == encoded(5)
        assert read_span(file, index.captions[1]).decode() == "Caption 5, Sjögren."
        assert json.loads(read_span(file, index.facts[1])) == {
            "caption": "Caption 5, Sjögren.",
            "key": "000010001",
            "sample_id": "s5",
        }
    assert (index.images.shape, index.suffixes) == ((2, 2), ("png", "png"))
    assert index.images.dtype == np.int64


def test_sizes_name_each_shard_and_no_other_file_stays(tmp_path):
    pack(tmp_path, 6)
    assert read_sizes(tmp_path) == {"00000.tar": 4, "00001.tar": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", "00001.tar", SIZES_FILE]


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    pack(tmp_path / "a", 3)
    pack(tmp_path / "b", 3)
    assert (tmp_path / "a/00000.tar").read_bytes() == (tmp_path / "b/00000.tar").read_bytes()


def test_an_error_leaves_whole_shards_and_nothing_of_the_current_one(tmp_path):
    def fail_at_the_fourth():
        with ShardWriter(tmp_path, 2) as writer:
            for suffix in ("png", "png", "png", "exe"):
                writer.add(encoded(), suffix, "caption", {})

    with pytest.raises(ValueError, match="none of jpg"):
        fail_at_the_fourth()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", SIZES_FILE]
    with ShardWriter(tmp_path, 2, start=1) as writer:
        assert writer.add(encoded(), "png", "2", {}) == "000010000"
    assert read_sizes(tmp_path) == {"00000.tar": 2, "00001.tar": 1}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_webdataset_library_opens_them(tmp_path):
    import webdataset

    pack(tmp_path, 6)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["txt"].decode() for sample in found] == [f"Caption {n}, Sjögren." for n in range(6)]
    assert [sample["png"] for sample in found] == [encoded(n) for n in range(6)]
    gc.collect()  # the library leaves its tars open


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_trainer_of_open_clip_opens_them_and_knows_their_number(tmp_path):
    import torch
    from open_clip_train.data import get_wds_dataset

    pack(tmp_path, 8)
    arguments = SimpleNamespace(
        train_data=f"{tmp_path}/{{00000..00001}}.tar",
        dataset_resampled=False,
        train_num_samples=None,
        train_data_upsampling_factors=None,
        seed=0,
        batch_size=4,
        workers=0,
        world_size=1,
    )

    def pixels(picture):
        return torch.from_numpy(np.asarray(picture).copy())

    def tokens(text):
        return torch.tensor([[int(text.split()[1].rstrip(","))]])

    data = get_wds_dataset(arguments, pixels, is_train=True, tokenizer=tokens)
    batches = list(data.dataloader)
    assert data.dataloader.num_samples == 8
    assert [images.shape for images, _ in batches] == [(4, 16, 24, 3)] * 2
    assert sorted(int(one) for _, texts in batches for one in texts) == list(range(8))
    del data
    gc.collect()  # the library leaves its tars open


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_shard_cut_anywhere_gives_its_whole_pairs_and_one_fault(tmp_path, share):
    pack(tmp_path, 20, per_shard=20)
    whole = (tmp_path / "00000.tar").read_bytes()
    content = whole[: index_end(index_tar(tmp_path / "00000.tar"))]
    cut = tmp_path / "cut.tar"
    cut.write_bytes(content[: int(len(content) * share)])
    index = index_tar(cut)
    assert index.keys == tuple(f"00000{n:04d}" for n in range(len(index)))
    assert index.faults == ((f"00000{len(index):04d}", "cut_off"),)
    assert abs(len(index) - 20 * share) <= 1
    with cut.open("rb") as file:
        assert [read_span(file, span) for span in index.images] == [encoded(n) for n in range(len(index))]


def index_end(index: TarIndex) -> int:
    """Byte behind the last member's content."""
    return int(max(spans.sum(axis=1).max() for spans in (index.images, index.captions, index.facts)))


def test_every_cut_of_a_small_shard_is_told_and_none_raises(tmp_path):
    pack(tmp_path, 2, per_shard=2)
    whole = (tmp_path / "00000.tar").read_bytes()
    end = index_end(index_tar(tmp_path / "00000.tar"))
    end += -end % 512
    for cut in [*range(0, end, 97), *range(0, end + 1, 512)]:
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        index = index_tar(tmp_path / "cut.tar")
        assert len(index) <= 1
        assert [reason for _, reason in index.faults] == ["cut_off"], cut


def test_bytes_that_are_no_header_end_the_reading_with_a_fault(tmp_path):
    path = tar(tmp_path / "a.tar", *pair("a"), *pair("b"), *pair("c"))
    content = bytearray(path.read_bytes())
    start = content.index(b"b.png")
    content[start : start + 512] = b"\x07" * 512
    path.write_bytes(content)
    index = index_tar(path)
    assert index.keys == ()
    assert index.faults == (("a", "damaged"),)


def test_a_member_of_negative_length_does_not_send_the_reader_round_for_ever(tmp_path):
    path = tar(tmp_path / "a.tar", *pair("a"), *pair("b"))
    content = bytearray(path.read_bytes())
    start = content.index(b"b.png")
    content[start + 124 : start + 136] = (-2048).to_bytes(12, "big", signed=True)
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)
    assert index_tar(path).faults == (("a", "damaged"),)


@pytest.mark.parametrize(
    ("members", "keys", "faults"),
    [
        ([("a.txt", b"x"), *pair("b")], ("b",), (("a", "no_image"),)),
        ([("a.png", b"x"), *pair("b")], ("b",), (("a", "no_caption"),)),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.txt", b"x"), *pair("b")], ("b",), (("a", "two_images"),)),
        ([("a.png", b"x"), ("a.png", b"x"), ("a.txt", b"x"), *pair("b")], ("b",), (("a", "two_images"),)),
        ([("a.txt", b"x"), ("a.txt", b"x"), ("a.jpg", b"x")], (), (("a", "two_captions"),)),
        ([("a.png", b""), ("a.txt", b"x"), *pair("b")], ("b",), (("a", "empty"),)),
        ([("a.png", b"x"), ("a.txt", b""), *pair("b")], ("b",), (("a", "empty"),)),
        ([("a.pkl", b"x"), ("a.cls", b"1"), *pair("b")], ("b",), (("a", "no_image"),)),
        ([*pair("a"), *pair("a")], ("a", "a"), ()),
        ([("__note__.txt", b"x"), *pair("b")], ("b",), ()),
        ([*pair("dir.v1/a.b"[:-2]), *pair("dir.v1/c")], ("dir.v1/a", "dir.v1/c"), ()),
        ([], (), ()),
    ],
)
def test_what_is_no_pair_is_named_with_its_reason(tmp_path, members, keys, faults):
    index = index_tar(tar(tmp_path / "a.tar", *members))
    assert (index.keys, index.faults) == (keys, faults)


def test_suffixes_are_read_in_any_case_and_others_passed_over(tmp_path):
    path = tar(
        tmp_path / "a.tar", ("a.JPEG", b"jpeg"), ("a.pickle", b"x"), ("a.seg.png", b"x"), ("a.TXT", b"t")
    )
    index = index_tar(path)
    assert (index.suffixes, index.facts.tolist()) == (("jpeg",), [[0, 0]])
    with path.open("rb") as file:
        assert (read_span(file, index.images[0]), read_span(file, index.facts[0])) == (b"jpeg", b"")


def test_long_names_and_folders_are_members_like_others(tmp_path):
    name = "folder/" * 40 + "a"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as file:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for ending, content in ((".png", b"p"), (".txt", b"t")):
            member = tarfile.TarInfo(name + ending)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    assert index_tar(tmp_path / "a.tar").keys == (name,)


def test_a_packed_tar_is_refused_with_the_cure(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(tar(tmp_path / "b.tar", *pair("a")).read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar: packed with gzip.* unpack it to a plain \.tar"):
        index_tar(path)


@pytest.mark.parametrize(("content", "reason"), [(b"<html>" * 1000, "not_a_tar"), (b"", "cut_off")])
def test_another_file_is_a_fault_under_its_name(tmp_path, content, reason):
    (tmp_path / "a.tar").write_bytes(content)
    assert index_tar(tmp_path / "a.tar").faults == (("a.tar", reason),)


def test_a_shard_that_shrinks_while_it_is_read_is_told(tmp_path):
    path = tar(tmp_path / "a.tar", *pair("a"))
    index = index_tar(path)
    path.write_bytes(path.read_bytes()[:600])
    with path.open("rb") as file, pytest.raises(UserError, match=r"a\.tar: ends before byte"):
        read_span(file, index.images[0])


def test_a_key_has_room_for_9999_pairs_and_no_more(tmp_path):
    with pytest.raises(UserError, match="per_shard: 10000"):
        ShardWriter(tmp_path, 10_000)
    with ShardWriter(tmp_path, 2) as writer, pytest.raises(ValueError, match="suffix 'tif'"):
        writer.add(b"x", "tif", "caption", {})
