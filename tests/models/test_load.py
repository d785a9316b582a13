"""A loaded model's patch embedding is a matrix product that gives what the convolution gives."""

from typing import Any

import pytest
import torch
from tests.fixtures import FAMILIES
from torch import nn

from pathloom.models.load import PatchProjection, load_model


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_are_projected_as_by_the_convolution_and_learn_alike(model_folders, family):
    embed = load_model(str(model_folders[family]))[0].model.visual.patch_embed
    assert isinstance(embed.proj, PatchProjection)
    projection: Any = embed.proj
    channels, *kernel = projection.weight.shape[1:]
    patches = torch.randn(7, channels, *kernel)

    found, gradients = [], []
    kinds: tuple[type[nn.Conv3d], ...] = (PatchProjection, nn.Conv3d)
    for kind in kinds:
        projection.__class__ = kind
        projection.zero_grad()
        given = embed(patches)
        given.square().sum().backward()
        found.append(given.detach())
        gradients.append(projection.weight.grad.clone())

    assert found[0].shape == (7, projection.out_channels)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)
