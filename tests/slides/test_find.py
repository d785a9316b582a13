"""Which slides a place holds."""

import shutil

import pytest
from tests.slides.test_dicom import write_dicom

from pathloom.slides.find import find_slides, slide_size_and_time


def test_files_of_slides_are_named_by_their_path_and_pictures_and_notes_are_not_slides(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x.svs", "b.ome.tif", "c.ome.tiff", "d.NDPI", "photo.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.tif").mkdir()

    assert find_slides(tmp_path) == {
        name: tmp_path / name for name in ("a/x.svs", "b.ome.tif", "c.ome.tiff", "d.NDPI")
    }


def test_one_file_is_one_slide_and_what_is_not_there_is_none(tmp_path):
    (tmp_path / "x.svs").write_bytes(b"")

    assert find_slides(tmp_path / "x.svs") == {"x.svs": tmp_path / "x.svs"}
    assert find_slides(tmp_path / "y.svs") == {}


def test_a_series_is_one_slide_named_after_its_folder(tmp_path):
    for name in ("label.dcm", "level0.dcm", "level1.dcm"):
        write_dicom(tmp_path / "s" / name, image_type="LABEL" if name == "label.dcm" else "VOLUME")

    assert find_slides(tmp_path) == {"s": tmp_path / "s" / "level0.dcm"}
    assert find_slides(tmp_path / "s") == {"s": tmp_path / "s" / "level0.dcm"}


def test_two_series_in_one_folder_are_two_slides_named_after_their_first_files(tmp_path):
    for name, series in (("a.dcm", "1.1"), ("b.dcm", "1.2"), ("c.dcm", "1.1")):
        write_dicom(tmp_path / "s" / name, series=series)

    assert find_slides(tmp_path) == {name: tmp_path / name for name in ("s/a.dcm", "s/b.dcm")}


def test_a_changed_copy_in_a_series_is_a_slide_of_its_own(tmp_path):
    for name, instance in (("a.dcm", "5.1"), ("b.dcm", "5.2"), ("c.dcm", "5.1")):
        write_dicom(tmp_path / "s" / name, instance=instance)
    with (tmp_path / "s" / "c.dcm").open("ab") as file:
        file.write(b"more")

    assert find_slides(tmp_path) == {name: tmp_path / name for name in ("s/a.dcm", "s/c.dcm")}


def test_an_equal_copy_in_a_series_is_left_out(tmp_path):
    for name, instance in (("a.dcm", "5.1"), ("b.dcm", "5.2")):
        write_dicom(tmp_path / "s" / name, instance=instance)
    shutil.copy(tmp_path / "s" / "a.dcm", tmp_path / "s" / "a copy.dcm")

    assert find_slides(tmp_path) == {"s": tmp_path / "s" / "a copy.dcm"}


def test_instance_uids_are_compared_within_a_series(tmp_path):
    for name, series, instance in (
        ("a.dcm", "1.1", "5.1"),
        ("b.dcm", "1.1", "5.2"),
        ("c.dcm", "1.2", "5.1"),
        ("d.dcm", "1.2", "5.3"),
    ):
        write_dicom(tmp_path / "s" / name, series=series, instance=instance)

    assert find_slides(tmp_path) == {name: tmp_path / name for name in ("s/a.dcm", "s/c.dcm")}


def test_annotations_and_segmentations_are_no_slides(data_root):
    assert find_slides(data_root / "slides" / "dicom_small") == {
        name: data_root / "slides" / "dicom_small" / name
        for name in ("sm_image.dcm", "sm_image_control.dcm", "sm_image_dots.dcm")
    }


def test_a_folder_of_dicom_files_without_a_slide_is_named_so_that_it_is_reported(tmp_path):
    write_dicom(tmp_path / "s" / "a.dcm", sop_class="1.2.840.10008.5.1.4.1.1.66.4")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "b.dcm").write_bytes(b"text")

    assert find_slides(tmp_path) == {"s": tmp_path / "s" / "a.dcm", "t": tmp_path / "t" / "b.dcm"}


def test_the_example_slides_are_found(data_root):
    assert sorted(find_slides(data_root / "slides")) == [
        "aperio_cmu1/CMU-1-Small-Region.svs",
        "dicom_cmu1",
        "dicom_small/sm_image.dcm",
        "dicom_small/sm_image_control.dcm",
        "dicom_small/sm_image_dots.dcm",
        "hamamatsu_dapi/test3-DAPI-2-(387).ndpi",
        "ometiff_he_ki67/images_OS-1-detail.ome.tif",
        "ometiff_he_ki67/images_OS-2-ndpi.ome.tif",
        "ometiff_he_ki67/images_OS-2-vsi.ome.tif",
        "openslide_fixtures",
        "openslide_fixtures/boxes.tiff",
        "openslide_fixtures/histolab_broken.svs",
        "openslide_fixtures/unopenable.tiff",
        "openslide_fixtures/unreadable.svs",
    ]


@pytest.mark.parametrize(
    ("opened", "part"),
    [("s/1.dcm", "s/2.dcm"), ("s/1.DCM", "s/2.DCM"), ("s.mrxs", "s/Data0000.dat"), ("s.svs", "s.svs")],
)
def test_a_slide_has_changed_when_any_of_its_files_has(tmp_path, opened, part):
    (tmp_path / "s").mkdir()
    for name in (opened, part):
        (tmp_path / name).write_bytes(b"pixels")
    before = slide_size_and_time(tmp_path / opened)
    assert slide_size_and_time(tmp_path / opened) == before
    (tmp_path / part).write_bytes(b"other pixels")
    assert slide_size_and_time(tmp_path / opened) != before
