"""Stage `webdataset`: caption Samples to tars, and back through source `pairs`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from tests.fixtures import encoded, make_sample, picture

from pathloom.ingest.pairs import PairsConfig
from pathloom.schema import Image, Origin, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError, read_jsonl, write_json
from pathloom.store import read_samples, write_samples
from pathloom.train import pack
from pathloom.train.contrastive_config import WebdatasetConfig
from pathloom.train.pack import run_pack
from pathloom.train.rows import LeakError
from pathloom.webdataset import index_tar, read_sizes, read_span


def caption(name: str, *, group: str = "", source: str = "made", **fields: Any) -> Sample:
    origin = Origin(source=source, source_id=name, licence="CC0-1.0", group=group or name)
    return make_sample(name, task="caption", answer=f"Caption of {name}.", origin=origin, **fields)


def image_of(data: bytes, path: str = "a.png") -> Image:
    with PILImage.open(io.BytesIO(data)) as opened:
        return Image(path=path, data=data, width_px=opened.width, height_px=opened.height)


def packed(tmp_path: Path, *stages: list[Sample], **settings: Any) -> dict[str, Any]:
    names = [f"stage{index}" for index in range(len(stages))]
    for name, samples in zip(names, stages, strict=True):
        write_samples(samples, tmp_path / name)
    config = WebdatasetConfig(name="tars", kind="webdataset", samples=names, **settings)
    return run_pack(config, {name: tmp_path / name for name in names}, tmp_path / "out")


def pairs_in(folder: Path) -> list[tuple[str, bytes, dict[str, Any]]]:
    """(suffix, picture, facts) in order."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        index = index_tar(path)
        with path.open("rb") as file:
            for suffix, image, facts in zip(index.suffixes, index.images, index.facts, strict=True):
                found.append((suffix, read_span(file, image), json.loads(read_span(file, facts))))
    return found


def test_training_captions_become_pairs_with_all_that_is_known_of_them(tmp_path):
    others = [make_sample("a question"), caption("held out", split="test"), caption("watched", split="val")]
    counts = packed(tmp_path, [caption("one", group="book 3"), *others])
    ((suffix, data, facts),) = pairs_in(tmp_path / "out")
    assert (suffix, data) == ("png", encoded(0))
    assert facts == {
        "caption": "Caption of one.",
        "key": "000000000",
        "width": 24,
        "height": 16,
        "original_path": "0.png",
        "sample_id": "one",
        "source": "made",
        "licence": "CC0-1.0",
        "group": "book 3",
    }
    assert counts == {
        "pairs": 1,
        "shards": 1,
        "drops": {},
        "by_source": {"made": 1},
        "caption_words": {"median": 3.0, "quantile_0.95": 3.0, "most": 3},
    }


def test_a_group_on_both_sides_is_refused_even_if_its_held_out_part_is_no_caption(tmp_path):
    held_out = make_sample("question", split="test", origin=caption("x", group="patient 7").origin)
    with pytest.raises(LeakError, match="group 'patient 7'"):
        packed(tmp_path, [caption("a", group="patient 7")], [held_out])
    assert not list((tmp_path / "out").glob("*.tar"))


def test_folds_are_refused_with_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"tars\.samples: sample b is of fold-1.*test_share"):
        packed(tmp_path, [caption("a"), caption("b", split="fold-1")])


def test_no_pair_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="hold no caption Sample of split train"):
        packed(tmp_path, [make_sample("a question")])
    lost = caption("a", images=(Image(path="/nowhere/a.png", width_px=2, height_px=2),))
    with pytest.raises(UserError, match=r"none of 1 Samples .*/nowhere/a\.png"):
        packed(tmp_path, [lost])


@pytest.mark.parametrize(
    ("file_format", "path", "suffix"),
    [("PNG", "a.jpg", "png"), ("JPEG", "a.png", "jpg"), ("WEBP", "a", "webp")],
)
def test_bytes_that_trainers_read_stay_as_they_are_whatever_their_name(tmp_path, file_format, path, suffix):
    data = encoded(3, file_format)
    packed(tmp_path, [caption("a", images=(image_of(data, path),))])
    assert [pair[:2] for pair in pairs_in(tmp_path / "out")] == [(suffix, data)]


@pytest.mark.parametrize("file_format", ["TIFF", "BMP"])
def test_other_formats_become_png_without_loss(tmp_path, file_format):
    packed(tmp_path, [caption("a", images=(image_of(encoded(3, file_format)),))])
    ((suffix, data, _),) = pairs_in(tmp_path / "out")
    with PILImage.open(io.BytesIO(data)) as opened:
        assert (suffix, opened.format) == ("png", "PNG")
        assert opened.tobytes() == picture(3).tobytes()


def test_larger_pictures_are_made_smaller_and_say_so(tmp_path):
    large, small = encoded(1, width_px=100, height_px=50), encoded(2, width_px=40, height_px=20)
    samples = [caption(name, images=(image_of(data),)) for name, data in (("l", large), ("s", small))]
    packed(tmp_path, samples, max_side_px=40)
    (l_suffix, l_data, l_facts), (s_suffix, s_data, _) = pairs_in(tmp_path / "out")
    with PILImage.open(io.BytesIO(l_data)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (40, 20))
    assert (l_suffix, l_facts["width"], l_facts["height"]) == ("jpg", 40, 20)
    assert (s_suffix, s_data) == ("png", small)


def test_a_sample_without_a_caption_is_a_drop_and_no_half_pair(tmp_path):
    empty = caption("b").model_copy(update={"answer": " "})
    counts = packed(tmp_path, [caption("a"), empty])
    assert (counts["pairs"], counts["drops"]) == (1, {"no_caption": 1})
    assert [facts["sample_id"] for _, _, facts in pairs_in(tmp_path / "out")] == ["a"]


def test_no_sample_is_packed_twice(tmp_path):
    with pytest.raises(UserError, match=r"sample b is in stage0 and in stage1, .*`dataset` name"):
        packed(tmp_path, [caption("a"), caption("b")], [caption("b")])
    with pytest.raises(ValueError, match="caps stands twice"):
        WebdatasetConfig(name="tars", kind="webdataset", samples=("caps", "caps"))


def test_a_kill_while_sizes_are_written_leaves_the_sizes_before(tmp_path, monkeypatch):
    samples = [caption(str(n)) for n in range(8)]

    def killed(value: Any, path: Path) -> None:
        write_json(value, path)
        if len(value) == 2:
            path.write_text(path.read_text()[:-9])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathloom.webdataset.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            packed(tmp_path, samples, per_shard=4)
    assert read_sizes(tmp_path / "out") == {"00000.tar": 4}
    assert packed(tmp_path, samples, per_shard=4)["pairs"] == 8
    assert read_sizes(tmp_path / "out") == {"00000.tar": 4, "00001.tar": 4}


def test_a_picture_that_cannot_be_read_is_a_drop_beside_the_tars(tmp_path):
    broken = Image(path="b.png", data=encoded()[:60], width_px=24, height_px=16)
    samples = [caption("a"), caption("b", images=(broken,)), caption("c", images=()), caption("d")]
    counts = packed(tmp_path, samples)
    assert counts["drops"] == {"no_image": 1, "truncated": 1}
    drops = read_jsonl(tmp_path / "out/drops/00000.jsonl")
    assert [(drop["sample_id"], drop["step"]) for drop in drops] == [("b", "webdataset"), ("c", "webdataset")]
    assert [facts["sample_id"] for _, _, facts in pairs_in(tmp_path / "out")] == ["a", "d"]


def test_every_tar_holds_the_stages_in_their_proportions_and_order(tmp_path):
    many = [caption(f"m{n}", source="many") for n in range(30)]
    few = [caption(f"f{n}", source="few") for n in range(10)]
    counts = packed(tmp_path, few, many, per_shard=8)
    names = [facts["sample_id"] for _, _, facts in pairs_in(tmp_path / "out")]
    assert [name for name in names if name[0] == "m"] == [sample.id for sample in many]
    assert [name for name in names if name[0] == "f"] == [sample.id for sample in few]
    assert [sum(name[0] == "f" for name in names[at : at + 8]) for at in range(0, 40, 8)] == [2] * 5
    assert counts["by_source"] == {"few": 10, "many": 30}


def test_a_killed_run_goes_on_behind_its_last_whole_tar_and_ends_the_same(tmp_path, monkeypatch):
    broken = Image(path="b.png", data=b"no picture", width_px=24, height_px=16)
    samples = [
        caption(f"{n}", images=(broken,) if n % 5 == 2 else (image_of(encoded(n)),)) for n in range(20)
    ]
    whole = packed(tmp_path / "whole", samples, per_shard=4)

    encode, seen = pack._encode, []

    def killed(sample: Sample, side_px: int | None) -> Any:
        seen.append(sample.id)
        if sample.id == "12" and seen.count("12") == 1:
            raise KeyboardInterrupt
        return encode(sample, side_px)

    monkeypatch.setattr(pack, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "killed", samples, per_shard=4)
    out = tmp_path / "killed/out"
    assert sorted(path.name for path in out.glob("0*")) == ["00000.tar", "00001.tar"]
    seen.clear()
    seen.append("12")
    assert packed(tmp_path / "killed", samples, per_shard=4) == whole
    assert seen[1] == "10"
    for path in (tmp_path / "whole/out").rglob("*.*"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "whole/out")).read_bytes(), path


def test_a_tar_whose_drops_were_not_yet_written_is_written_anew(tmp_path):
    samples = [caption(str(n)) for n in range(8)]
    whole = packed(tmp_path, samples, per_shard=4)
    (tmp_path / "out/drops/00001.jsonl").unlink()
    (tmp_path / "out/00001.tar").write_bytes(b"")
    assert packed(tmp_path, samples, per_shard=4) == whole


def test_samples_come_back_from_their_tars_through_pairs(tmp_path):
    words = "with a long description of glands"
    samples = [caption(f"s{n}", group=f"book {n % 3}", images=(image_of(encoded(n)),)) for n in range(10)]
    samples = [
        sample.model_copy(update={"answer": f"{sample.answer} {words}, no. {sample.id}"})
        for sample in samples
    ]
    packed(tmp_path, samples, per_shard=4)
    config = PairsConfig(
        name="back", kind="ingest", source="pairs", table=tmp_path / "out", columns={"id": "sample_id"}
    )
    config.check()
    counts = run_ingest(config, tmp_path / "back")
    assert (counts["samples"], counts["drops"]) == (10, {})
    for before, after in zip(samples, read_samples(tmp_path / "back"), strict=True):
        assert after.id == f"pairs/{before.id}"
        assert after.answer == before.answer
        assert after.images[0].data == before.images[0].data
        assert (after.origin.group, after.origin.licence) == (before.origin.group, before.origin.licence)
