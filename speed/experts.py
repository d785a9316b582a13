"""A mixture of LoRA experts beside plain PEFT LoRA of the same total rank: tokens generated and training steps.

    OMP_NUM_THREADS=1 python speed/experts.py [repeats] [device]

Two shapes, the shipped nano and a larger one of random weights, each asked by all ways in turns in one process, so that
all meet the same load. Prints the median of the ratios plain LoRA's seconds / this way's, of the same turn; on a CPU of
processor time and of wall time, on a GPU of wall time. `device` is a GPU where torch has one, with weights in bfloat16.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PolyConfig, get_peft_model
from torch import Tensor

from pathloom.models.experts import attach_experts, layers_with_experts, routed
from pathloom.models.experts_config import Mixture, Route
from pathloom.models.load import load_model
from pathloom.models.nano import build_config, build_model
from pathloom.models.presets import find_preset
from pathloom.stage import ModelRef
from pathloom.train.config import LoraSettings

EXPERTS, RANK, ALPHA = 4, 8, 16
ROWS, PROMPT, NEW = 8, 32, 32
TARGETS: str = LoraSettings.model_fields["target_modules"].default
ROUTES = [Route(scale, task) for scale in ("region", "slide") for task in ("boxes", "choice")]
ONE, MIXED = [ROUTES[0]] * ROWS, ROUTES * (ROWS // len(ROUTES))
PLAIN = "plain LoRA (PEFT)"
Clock = tuple[float, float]


def nano() -> Any:
    return load_model(ModelRef(base="qwen2.5-vl-nano").locate({}))[0]


def larger() -> Any:
    """25 million parameters, 21 of them in the 12 layers of the language model."""
    preset = find_preset("qwen2.5-vl-nano")
    text = {
        **preset.text,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 4096,
    }
    preset = replace(preset, text=text, vision={**preset.vision, "out_hidden_size": 384})
    return build_model(preset, build_config(preset), 0)


def mixture(model: Any, **fields: Any) -> Any:
    given = {
        "routing": "soft",
        "num_experts": EXPERTS,
        "r": RANK,
        "alpha": ALPHA,
        "gate_on": ("scale", "task"),
        "tasks": ("boxes", "choice"),
        "routes": {"region/boxes": 0, "region/choice": 1, "slide/boxes": 2, "slide/choice": 3},
        "target_modules": TARGETS,
    }
    attach_experts(model, Mixture.model_validate({**given, **fields}))
    for layer in layers_with_experts(model).values():
        torch.nn.init.normal_(layer.up, std=0.01)
        if layer.gate is not None:  # different gates for different routes
            for table in layer.gate.parameters():
                torch.nn.init.normal_(table)
    return model


def lora(model: Any) -> Any:
    settings = LoraConfig(
        r=EXPERTS * RANK, lora_alpha=EXPERTS * ALPHA, target_modules=TARGETS, init_lora_weights=False
    )
    return get_peft_model(model, settings)


def poly(model: Any) -> Any:
    settings = PolyConfig(
        r=RANK,
        n_tasks=len(ROUTES),
        n_skills=EXPERTS,
        n_splits=1,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


TASKS = {"task_ids": torch.arange(ROWS) % len(ROUTES)}
WAYS: dict[str, tuple[Callable[[Any], Any], list[Route] | None, dict[str, Any]]] = {
    PLAIN: (lora, None, {}),
    "shared": (lambda model: mixture(model, routing="shared", num_experts=1, r=EXPERTS * RANK), ONE, {}),
    "hard, one expert": (lambda model: mixture(model, routing="hard"), ONE, {}),
    "hard, four experts": (lambda model: mixture(model, routing="hard"), MIXED, {}),
    "soft": (mixture, MIXED, {}),
    "soft, top 1": (lambda model: mixture(model, top_k=1), MIXED, {}),
    "soft, token gate": (lambda model: mixture(model, token_gate=True), MIXED, {}),
    "Poly (PEFT)": (poly, None, TASKS),
}


def generate(model: Any, routes: list[Route] | None, more: dict[str, Any], ids: Tensor) -> None:
    told = routed(model, routes) if routes else nullcontext()
    with torch.inference_mode(), told:
        model.eval().generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            **more,
        )


def step(model: Any, routes: list[Route] | None, more: dict[str, Any], ids: Tensor) -> None:
    told = routed(model, routes) if routes else nullcontext()
    with told:
        model.train()(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, **more).loss.backward()
    model.zero_grad()


def clocked(work: Callable[..., None], *given: Any) -> Clock:
    """(processor, wall) seconds."""
    before = time.process_time(), time.perf_counter()
    work(*given)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - before[0], time.perf_counter() - before[1]


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for name, build in (("nano", nano), ("larger", larger)):
        models = {}
        for way, (adapt, _, _) in WAYS.items():
            torch.manual_seed(0)
            models[way] = adapt(build().to(device, dtype))
            for part, parameter in models[way].named_parameters():
                parameter.requires_grad = any(mark in part for mark in (".experts.", "lora_", "poly_"))
        count = sum(parameter.numel() for parameter in build().parameters())
        print(f"{name}: {count / 1e6:.1f} M parameters, {ROWS} rows")
        for title, work, tokens in (
            ("generate", generate, ROWS * NEW),
            ("step", step, ROWS * (PROMPT + NEW)),
        ):
            length = PROMPT if work is generate else PROMPT + NEW
            ids = torch.randint(20, 500, (ROWS, length), device=device)
            taken: dict[str, list[Clock]] = {way: [] for way in WAYS}
            for turn in range(repeats + 1):
                for way, (_, routes, more) in WAYS.items():
                    on_device = {key: value.to(device) for key, value in more.items()}
                    clock = clocked(work, models[way], routes, on_device, ids)
                    if turn:  # the first turn warms up
                        taken[way].append(clock)
            report(title, tokens, taken)


def report(title: str, tokens: int, taken: dict[str, list[Clock]]) -> None:
    for way, clocks in taken.items():
        ratios = [
            [plain[clock] / own[clock] for plain, own in zip(taken[PLAIN], clocks, strict=True)]
            for clock in (0, 1)
        ]
        processor, wall = (statistics.median(each) for each in ratios)
        low, high = min(ratios[0]), max(ratios[0])
        seconds = statistics.median(own[1] for own in clocks)
        print(
            f"  {title:8} {way:20} {tokens / seconds:8.0f} tokens/s wall, x plain LoRA: processor {processor:.2f} "
            f"({low:.2f} to {high:.2f}), wall {wall:.2f}"
        )


if __name__ == "__main__":
    main()
