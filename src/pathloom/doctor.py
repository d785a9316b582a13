"""What `pathloom doctor` checks: the installation, not the data."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

MIN_FREE_BYTES = 2 * 2**30
"""A quickstart leaves well under 1 GB; training with checkpoints wants room."""


@dataclass(frozen=True)
class Check:
    """One finding; `cure` says what to do when it is not ok."""

    name: str
    ok: bool
    finding: str
    cure: str = ""


def examine() -> Iterator[Check]:
    """All checks, cheap ones first."""
    import platform

    yield Check("python", True, platform.python_version())
    for package in ("torch", "torchvision", "transformers", "trl"):
        try:
            yield Check(package, True, version(package))
        except PackageNotFoundError:
            yield Check(package, False, "not installed", "run `make setup`, or pip install -e '.[dev,probe]'")
    hooked = any(point.name == "pathloom" for point in entry_points(group="torch.backends"))
    yield Check(
        "torchvision hook",
        hooked,
        "registered" if hooked else "not registered",
        "install pathloom with pip, not by path",
    )
    yield _imports()
    yield _accelerator()
    free = shutil.disk_usage(Path.cwd()).free
    yield Check(
        "disk", free > MIN_FREE_BYTES, f"{free / 2**30:.0f} GiB free here", "free some space or use --runs"
    )
    data = os.environ.get("PATHLOOM_DATA")
    yield Check(
        "PATHLOOM_DATA", True, data or "not set; tests on real data will look beside the repository or skip"
    )


def _imports() -> Check:
    try:
        from pathloom.train import sft  # noqa: F401 (brings transformers, TRL, PEFT and the Qwen classes)
    except (ImportError, RuntimeError) as error:
        return Check(
            "model classes",
            False,
            str(error).splitlines()[0],
            "see docs/log.md on torchvision beside CPU torch",
        )
    return Check("model classes", True, "training and its libraries import")


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return Check(
            "accelerator", True, f"{name}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
        )
    return Check("accelerator", True, f"none; CPU with {os.cpu_count()} cores, nano presets only")
