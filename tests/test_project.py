"""Rules that the project has set itself and that nobody should have to remember while reviewing."""

import ast
import json
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = SRC / "pathloom"

# Imports point up this list only. Within a layer they may point anywhere as long as no circle arises, except
# in the layer of ISOLATED, whose members do not know each other.
LAYERS = (
    {"__init__", "schema", "attributes", "figures", "routing", "stage", "card"},
    {"images", "store", "tasks", "phantom", "webdataset", "nearest", "masks", "slides"},
    {"models"},
    {"generate", "benchmarks"},
    {"books"},
    {"ingest"},
    {"curate", "train", "evaluate", "serve"},
    {
        *("recipe", "run", "shards", "listing", "forecast", "doctor", "__main__"),
        *("cli", "cli_benchmark", "cli_phantom", "cli_slides"),
    },
)
ISOLATED = {"curate", "train", "evaluate", "serve"}
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80
MAX_TRACKED_BYTES = 12_000_000


def sources() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def package_sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part_of(path: Path) -> str:
    """The first name below the package: `store` for store.py, `tasks` for tasks/boxes.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, source: ast.Module | None = None) -> Iterator[tuple[int, str]]:
    """Each (line, dotted module) that a file imports, also inside functions, relatively or by import_module.

    `from a import b` yields `a.b`, because b may be a module.
    """
    package = ["pathloom", *path.relative_to(PACKAGE).parent.parts] if path.is_relative_to(PACKAGE) else []
    for node in ast.walk(source or tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def imported_part(module: str) -> str | None:
    """The part of the package that a dotted name leads to, None for another package."""
    first, *rest = module.split(".")
    if first != "pathloom":
        return None
    # `from pathloom import __version__` is taken from the package's own file. A name that is neither a known
    # part nor there is returned as it is, to be reported.
    if not rest or (rest[0] not in LAYER_OF and rest[0] in names_defined_by_package()):
        return "__init__"
    return rest[0]


@cache
def names_defined_by_package() -> frozenset[str]:
    names: set[str] = set()
    for node in tree(PACKAGE / "__init__.py").body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(names)


def layering_faults(path: Path, source: ast.Module | None = None) -> list[str]:
    own = part_of(path)
    if own not in LAYER_OF:
        return [f"{relative(path)}: '{own}' is in no layer; give it one in {relative(Path(__file__))}"]
    faults = []
    for line, module in imports(path, source):
        other = imported_part(module)
        if other is None or other == own:
            continue
        where = f"{relative(path)}:{line} imports {module}"
        if other not in LAYER_OF:
            faults.append(f"{where}: '{other}' is in no layer")
        elif LAYER_OF[other] > LAYER_OF[own]:
            faults.append(f"{where}: '{own}' stands below '{other}'")
        elif own in ISOLATED and other in ISOLATED:
            faults.append(f"{where}: '{own}' and '{other}' do not know each other")
    return faults


def test_imports_point_one_way():
    assert [fault for path in package_sources() for fault in layering_faults(path)] == []


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("store.py", "from pathloom.schema import Sample", None),
        ("store.py", "from pathloom import __version__", None),
        ("store.py", "import torch, json", None),
        ("tasks/boxes.py", "from .task import Task", None),
        ("tasks/boxes.py", "from ..train.rows import Row", "'tasks' stands below 'train'"),
        ("store.py", "def load():\n    from pathloom.cli import main", "'store' stands below 'cli'"),
        ("store.py", "from pathloom import run", "'store' stands below 'run'"),
        ("store.py", "import importlib\nimportlib.import_module('pathloom.models.nano')", "below 'models'"),
        ("train/sft.py", "from pathloom.evaluate import metrics", "do not know each other"),
        ("train/sft.py", "import pathloom.homeless", "'homeless' is in no layer"),
        ("homeless.py", "", "'homeless' is in no layer"),
    ],
)
def test_the_import_check_finds_what_it_should(file, code, fault):
    found = layering_faults(PACKAGE / file, ast.parse(code))

    assert (fault in found[0]) if fault else (found == [])


def test_no_circle_of_imports():
    graph: dict[str, set[str]] = {}
    for path in package_sources():
        parts = {imported_part(module) for _, module in imports(path)}
        graph.setdefault(part_of(path), set()).update(part for part in parts if part)

    done: set[str] = set()

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, f"circle: {' -> '.join((*way[way.index(part) :], part))}"
        if part not in done:
            for other in sorted(graph.get(part, set()) - {part}):
                visit(other, (*way, part))
            done.add(part)

    for part in sorted(graph):
        visit(part, ())


@pytest.mark.parametrize(("library", "home"), [("trl", "train"), ("ray", "shards")])
def test_a_library_is_imported_in_one_place_only(library, home):
    elsewhere = [
        f"{relative(path)}:{line}"
        for path in package_sources()
        for line, module in imports(path)
        if module.split(".")[0] == library and part_of(path) != home
    ]

    assert elsewhere == []


def test_the_torch_hook_does_not_import_the_package():
    assert [m for _, m in imports(SRC / "pathloom_torch_hook.py") if m.split(".")[0] == "pathloom"] == []


HEAVY = {
    *("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "timm"),
    *("numpy", "scipy", "sklearn", "pandas", "pyarrow", "PIL"),
}

START = """
import json, sys
sys.argv = ["pathloom", "--help"]
import pathloom
after_import = set(sys.modules)
from pathloom.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print()
print(json.dumps({"code": code, "import": sorted(after_import), "help": sorted(sys.modules)}))
"""


def test_start_and_help_load_no_heavy_library():
    result = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert not seen["code"]
    assert HEAVY.intersection(seen["import"]) == set()
    assert HEAVY.intersection(seen["help"]) == set()


def test_files_and_functions_stay_small():
    too_long = []
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            too_long.append(f"{relative(path)}: {lines} lines, the limit is {MAX_FILE_LINES}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    where = f"{relative(path)}:{node.lineno} {node.name}"
                    too_long.append(f"{where}: {lines} lines, the limit is {MAX_FUNCTION_LINES}")

    assert too_long == []


def readme_paths(text: str) -> set[str]:
    """Paths into the repository that a text names: link targets, and names that start at a known folder.

    What a run or an installation makes (runs/, .venv/) is not checked, nor is a placeholder like <name>.
    """
    links = {target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    folders = r"(?:src|tests|docs|recipes|speed|\.ci)"
    named = set(re.findall(rf"(?<![\w./-])(?:\./)?({folders}/[\w./*-]*)(?![\w<{{])", text))
    return {path.rstrip(".") for path in links | named if path and not path.startswith("mailto:")}


def test_every_path_in_the_readme_exists():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")

    missing = [p for p in sorted(readme_paths(readme.read_text(encoding="utf-8"))) if not any(ROOT.glob(p))]

    assert missing == []


def test_the_readme_check_sees_links_and_plain_paths():
    text = "Run `recipes/a.yaml`, see [b](docs/b.md#top), [c](https://x.y/docs/z) and tests/. Not runs/q."

    assert readme_paths(text) == {"recipes/a.yaml", "docs/b.md", "tests/"}


def test_no_large_file_is_in_the_repository():
    # Also what is new and not ignored: the answer should come before the commit, not after it.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]

    assert [relative(f) for f in files if f.is_file() and f.stat().st_size > MAX_TRACKED_BYTES] == []


def requirements() -> dict[str, str]:
    """Every dependency of pyproject.toml, extras included: normal form of its name -> rest of the line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    matches = [re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)", line) for line in lines]
    return {re.sub(r"[-_.]+", "-", m[1]).lower(): m[2] for m in matches if m}


def test_no_copyleft_dependency():
    copyleft = ("pymupdf", "doclayout", "ultralytics", "marker-pdf")

    assert [name for name in requirements() if name.startswith(copyleft)] == []


def test_no_dependency_that_breaks_a_cpu_install():
    assert {"torchaudio", "torchcodec"}.isdisjoint(requirements())


def test_dependencies_are_pinned_exactly():
    exact = re.compile(r"==[0-9][0-9A-Za-z.]*( *;|$)")

    assert [name for name, rest in requirements().items() if not exact.match(rest)] == []


def test_the_commit_hooks_use_the_same_ruff():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    installed = {
        package
        for repo in config["repos"]
        for hook in repo["hooks"]
        for package in hook["additional_dependencies"]
        if package.startswith("ruff")
    }

    assert installed == {f"ruff{requirements()['ruff']}"}


def unsafe_calls(source: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that would run code from a file or a model repository: see SECURITY.md."""
    for node in ast.walk(source):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if re.fullmatch(r"(pickle|cloudpickle|dill|joblib)\.(load|loads|Unpickler)", name):
            yield node.lineno, name
        if name == "torch.load" and given.get("weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if given.get("allow_pickle") or given.get("trust_remote_code"):
            yield node.lineno, f"{name} with pickles or remote code allowed"


def test_nothing_runs_code_from_files_or_models():
    found = [
        f"{relative(path)}:{line} {what}" for path in sources() for line, what in unsafe_calls(tree(path))
    ]

    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "pickle.loads(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(code):
    assert list(unsafe_calls(ast.parse(code)))


def test_tests_cannot_reach_the_network_but_can_reach_this_machine():
    # 192.0.2.0/24 is reserved for examples (RFC 5737): nobody answers there even if the guard is gone.
    with pytest.raises(AssertionError, match=r"must not reach the network.*192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(AssertionError, match=r"must not reach the network.*pathloom\.invalid"):
        socket.getaddrinfo("pathloom.invalid", 80)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
