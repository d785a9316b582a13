"""CLIP models of open_clip: loaded for use or training, built small from a preset, saved as folders that it opens."""

import logging
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathloom.card import refuse_pickles
from pathloom.models.clip_presets import END, PAD, SPECIAL_TOKENS, START, ClipPreset
from pathloom.stage import UserError, write_json

if TYPE_CHECKING:
    import torch
    from PIL import Image as PILImage

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

_CURE = (
    "a hub model needs the network once (and its owner's leave), a folder open_clip_config.json beside the weights, "
    "and a tag stands in open_clip.list_pretrained()"
)
LOCAL = "local-dir:"
"""What open_clip puts before the path of a folder."""
_HUB = "hf-hub:"
_QUICK = "-quickgelu"

# Temperature 10 and bias -10: Zhai et al. 2023 (arXiv 2303.15343), section 3; as open_clip_train.main for --siglip.
_SIGLIP_START = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


@dataclass(frozen=True)
class Clip:
    """A loaded model; `see` and `read` give features [b, d] of pictures and texts before normalisation."""

    model: Any
    see: "Callable[[Sequence[PILImage.Image]], torch.Tensor]"
    read: "Callable[[Sequence[str]], torch.Tensor]"

    @property
    def logit_scale(self) -> float:
        """What a cosine is multiplied with."""
        return float(self.model.logit_scale.detach().exp())


def load_clip(model_name: str, weights: str | None, named: str = "") -> Clip:
    """For use, on the fastest device; names as open_clip.create_model_from_pretrained takes them. Raises UserError."""
    import open_clip
    import torch

    from pathloom.models.load import default_device

    device = default_device()
    if ":" not in model_name:
        _check_activation(_config_name(model_name), weights)
    with _told(f"encoder {named or model_name}"):
        model, prepare = open_clip.create_model_from_pretrained(model_name, weights, device=str(device))
        tokenizer = open_clip.get_tokenizer(model_name)
    model.eval()

    def see(pictures: "Sequence[PILImage.Image]") -> "torch.Tensor":
        return model.encode_image(torch.stack([prepare(picture) for picture in pictures]).to(device))

    def read(strings: Sequence[str]) -> "torch.Tensor":
        return model.encode_text(tokenizer(list(strings)).to(device))

    return Clip(model, see, read)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of open_clip's loading as one that says what was to be loaded and what it needs."""
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:  # torch's own words advise to load it all the same
        raise UserError(
            f"{what}: its weights are a pickle of more than tensors and are not loaded; save them as .safetensors"
        ) from error
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{what}: open_clip cannot load it ({error}); {_CURE}") from error
    except (KeyError, TypeError) as error:  # its constructors take the model_cfg of a folder or of the hub
        raise UserError(f"{what}: {CONFIG_FILE} has a key too few or too many ({error}); {_CURE}") from error


@contextmanager
def quiet_logging() -> Iterator[None]:
    """open_clip tells each thing that it does to the root logger; only what is wrong passes."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


@dataclass(frozen=True)
class TrainableClip:
    """A model to train, its tokenizer, and open_clip's `model_cfg` that builds it again."""

    model: Any
    tokenizer: Any
    model_cfg: dict[str, Any]

    @property
    def image_px(self) -> int:
        """Side of the square that the image tower takes."""
        size = self.model.visual.image_size
        return int(size[0] if isinstance(size, tuple | list) else size)

    @property
    def context_length(self) -> int:
        """Tokens of a text, with its start and end."""
        return int(self.model_cfg["text_cfg"].get("context_length", 77))  # open_clip.CLIPTextCfg's default

    @property
    def pad_id(self) -> int:
        """The token that fills a text up to the context: 0 for open_clip's own tokenizer."""
        return int(getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0)


def open_trainable(
    model_name: str, pretrained: str | None, *, siglip: bool, precision: str, device: str, seed: int
) -> TrainableClip:
    """A model as open_clip_train.main makes it, for `model_name` and `pretrained` as open_clip takes them.

    Random weights, drawn from `seed`, where neither names any; a hub model always has its own. `siglip` starts the
    model with the bias and the temperature of that loss; weights that bring their own keep them, and to weights without
    a bias, those of CLIP, open_clip gives the bias 0. Raises UserError; see also `check_clip`.
    """
    import open_clip

    start = dict(_SIGLIP_START) if siglip else {}
    with _told(f"model {model_name}"), quiet_logging():
        model_cfg = open_clip.get_model_config(_config_name(model_name))
        seed_all(seed)
        _refuse_coca(model_name, model_cfg)
        model = open_clip.create_model(
            model_name,
            pretrained,
            precision=precision,
            device=device,
            output_dict=True,
            # open_clip begins at random, with a word to the log, where the hub does not hand out the weights
            require_pretrained=model_name.startswith(_HUB),
            **start,
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    return TrainableClip(model, tokenizer, {**model_cfg, **start})


def _config_name(model_name: str) -> str:
    """open_clip looks its own names up with - for /, but folders and hub ids as they are."""
    return model_name if ":" in model_name else model_name.replace("/", "-")


def check_clip(model_name: str, pretrained: str | None) -> None:
    """Raise UserError for a name, tag or folder that open_clip would not load, or load wrong."""
    if model_name.startswith(LOCAL):
        folder = Path(model_name.removeprefix(LOCAL))
        refuse_pickles(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"{folder / CONFIG_FILE} is not there; {_CURE}")
        if not any(folder.glob("*.safetensors")):  # open_clip would begin with random weights
            raise UserError(f"{folder} holds no *.safetensors; {_CURE}")
        return
    if model_name.startswith(_HUB):
        if pretrained is not None:  # open_clip would pass it over
            raise UserError(f"pretrained: {model_name} brings its own weights; leave it out")
        return
    import open_clip

    name = _config_name(model_name)
    if name not in open_clip.list_models():
        raise UserError(f"open_clip: {model_name}: not in open_clip.list_models()")
    _refuse_coca(model_name, open_clip.get_model_config(name))
    if pretrained is not None and not open_clip.get_pretrained_cfg(name, pretrained):
        _check_file(name, Path(pretrained))
    _check_activation(name, pretrained)


def _refuse_coca(model_name: str, model_cfg: Mapping[str, Any]) -> None:
    if "multimodal_cfg" in model_cfg:
        raise UserError(f"model {model_name}: CoCa needs a loss of its own; choose a CLIP or SigLIP model")


def _check_activation(name: str, pretrained: str | None) -> None:
    """open_clip 3.3 only warns, and the model would have another activation than its weights were trained with."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if tag and bool(tag.get("quick_gelu")) != bool(
        (open_clip.get_model_config(name) or {}).get("quick_gelu")
    ):
        other = name.removesuffix(_QUICK) if name.endswith(_QUICK) else name + _QUICK
        raise UserError(
            f"open_clip: {name}: the weights {pretrained} were trained with "
            f"{'QuickGELU' if tag.get('quick_gelu') else 'GELU'}; give open_clip: {other}"
        )


def _check_file(name: str, path: Path) -> None:
    import open_clip

    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"pretrained: {path} is neither a file nor a tag of {name}; its tags: {tags}")
    if path.suffix != ".safetensors":
        raise UserError(
            f"pretrained: {path} is not .safetensors; other files can run code when they are loaded"
        )


def seed_all(seed: int) -> None:
    """As open_clip_train.main.random_seed; that module needs the webdataset library to be imported."""
    import random

    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def write_preset(preset: ClipPreset, captions: Iterable[str], folder: Path) -> None:
    """A folder that open_clip opens with random weights: the preset's config and a tokenizer trained on `captions`."""
    tokenizer = train_clip_tokenizer(captions, preset.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_json({"model_cfg": preset.model_cfg(len(tokenizer)), "preprocess_cfg": {}}, folder / CONFIG_FILE)


def train_clip_tokenizer(captions: Iterable[str], vocab_size: int) -> Any:
    """Byte-level BPE in lower case, as CLIP's own, with start and end of text; any text encodes through bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    ids = [(token, SPECIAL_TOKENS.index(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, unk_token=None
    )


def save_clip(clip: TrainableClip, folder: Path) -> None:
    """What open_clip opens as local-dir: config, the tokenizer where it is no part of open_clip, weights last."""
    from open_clip.tokenizer import HFTokenizer
    from safetensors.torch import save_file

    if isinstance(clip.tokenizer, HFTokenizer):
        clip.tokenizer.save_pretrained(folder)
    prepared = clip.model.visual.preprocess_cfg
    kept = {key: prepared[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in prepared}
    write_json({"model_cfg": clip.model_cfg, "preprocess_cfg": kept}, folder / CONFIG_FILE)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.model.state_dict().items()}
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial)
    partial.replace(folder / WEIGHTS_FILE)
