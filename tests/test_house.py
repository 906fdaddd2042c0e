"""The rules of the house: one source for requirements, floors without cycles, a light import."""
import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import nbformat
import pytest

import lessonlib
from lessonlib.lessons import LESSONS
from lessonlib.measured import read_measured, write_results
from lessonlib.notebooks import CHECKED_SHARE, checked_share, clean, differences, notebooks

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FORBIDDEN_AT_IMPORT = ("torch", "torchvision", "spacy", "matplotlib", "pandas", "fastai")


def settings():
    config = ConfigParser(delimiters=["="], inline_comment_prefixes=["#"])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def setting_lines(key):
    return [line.strip() for line in settings()[key].splitlines() if line.strip()]


def modules():
    return {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
            for path in sorted((ROOT / "lessonlib").rglob("*.py")) if not path.name.startswith("_")}


def imports_of(path):
    """All modules of the library that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.relative_to(ROOT).parent.as_posix().replace("/", ".").split(".")
            base = base[:len(base) - node.level + 1]
            found.add(".".join([*base, node.module or ""]).strip("."))
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name in modules()}


def test_environment_yml_has_the_requirements_of_settings_ini():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = [re.sub(r"^\s+- '?([^']*)'?$", r"\1", line) for line in lines if line.startswith("      - ")]
    listed = [line for line in listed if not line.startswith("--")]
    assert listed == setting_lines("requirements") + setting_lines("dev_requirements")


def test_every_requirement_has_a_reason():
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    for requirement in setting_lines("requirements") + setting_lines("dev_requirements"):
        assert re.search(re.escape(requirement) + r"\s+# \w+", text), requirement


def test_constraints_pin_every_requirement():
    pinned = {re.split(r"==", line)[0].lower().replace("_", "-")
              for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    wanted = {re.split(r"[<>=;! ]", line)[0].lower()
              for line in setting_lines("requirements") + setting_lines("dev_requirements")}
    assert wanted <= pinned


def test_pyproject_and_settings_agree():
    nbdev = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["nbdev"]
    for key in ("lib_name", "lib_path", "nbs_path"):
        assert nbdev[key] == settings()[key], key
    assert lessonlib.__version__ == settings()["version"]


def test_imports_go_downwards_and_never_in_a_circle():
    graph = {name: imports_of(path) for name, path in modules().items()}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"a circle: {' -> '.join([*open_, name])}"
        if name in done: return
        open_.append(name)
        for other in sorted(graph[name]): visit(other)
        open_.pop()
        done.add(name)

    for name in graph: visit(name)
    lessons = {lesson.module for lesson in LESSONS.values()}
    for name, imported in graph.items():
        floor_of_lessons = name in lessons or any(name.startswith(f"{module}_") for module in lessons)
        if not floor_of_lessons: assert not imported & lessons, f"{name} imports a lesson"
        if not floor_of_lessons and ".samples" not in name:
            assert not any(".samples" in other for other in imported), f"{name} imports a sample maker"


@cache
def exported_notebooks():
    """The notebook of each module."""
    exported = {}
    for path in notebooks():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        if match := re.search(r"^#\| default_exp (\S+)", text, re.MULTILINE): exported[f"lessonlib.{match[1]}"] = path
    return exported


def test_every_module_has_its_notebook():
    assert set(modules()) == set(exported_notebooks())


# Trained in full by `verdicts`, which the lesson runs in a second process and checks
CHECKED_BY_A_CALLER = {"fit_plain": "verdicts", "ulmfit": "verdicts"}
CHECKS = re.compile(r"(test|assert)_\w+|expect_fail")
HOOKS = re.compile(r"forward|backward|(before|after)_\w+") # Others call them


def names_in(*trees):
    """What code really uses: names and attributes, not words in strings."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def set_in(tree):
    if isinstance(tree, ast.FunctionDef | ast.ClassDef): return {tree.name}
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def definitions(path):
    kinds = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    return {name: node for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, kinds) for name in set_in(node)}


class Cell:
    """What a code cell that is not exported uses, whether it checks something, and what its statements make."""

    def __init__(self, cell):
        self.tree = ast.parse(re.sub(r"^\s*[%!].*", "", cell.source, flags=re.MULTILINE))
        self.names = names_in(self.tree)
        ignored = re.search(r"^# *NBVAL_(IGNORE_OUTPUT|SKIP)", cell.source, re.MULTILINE)
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(self.tree))
        self.checks = asserts or any(map(CHECKS.fullmatch, self.names)) or bool(cell.outputs and not ignored)

    def made_with(self, name):
        """Variables that a statement sets by using the name, or the first argument of a call that stands alone."""
        made = set()
        for step in (step for step in self.tree.body if name in names_in(step)):
            made |= set_in(step)
            call = step.value if isinstance(step, ast.Expr) else None
            if isinstance(call, ast.Call) and call.args and name in names_in(call.func): made |= names_in(call.args[0])
        return made


def own_cells(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [Cell(cell) for cell in code if not re.search(r"^#\| *(export|default_exp)", cell.source, re.MULTILINE)]


def is_checked(name, cells):
    """Whether a cell that uses the name checks something, or a later cell checks what was made with it."""
    for number, cell in enumerate(cells):
        if name not in cell.names: continue
        made = cell.made_with(name)
        if cell.checks or any(later.checks and made & later.names for later in cells[number + 1:]): return True
    return False


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_exported_name_is_used_and_checked_in_its_notebook(module):
    path = exported_notebooks()[module]
    defined, cells = definitions(modules()[module]), own_cells(path)
    public = ast.literal_eval(defined.pop("__all__").value)
    reached, todo = set(), [name for name in defined for cell in cells if name in cell.names]
    while todo: # What the notebook uses, and what that uses
        if (name := todo.pop()) in reached: continue
        reached.add(name)
        todo += names_in(defined[name]) & set(defined)
    public = {name: defined[name] for name in public if name in defined} # Some are another module's
    tables = {name: names_in(node) for name, node in public.items() if isinstance(node, ast.Assign | ast.AnnAssign)}
    for name, node in public.items():
        if isinstance(node, ast.FunctionDef): # Used itself, or through a table it stands in or is registered with
            entered = [t for t, held in tables.items() if name in held or t in names_in(*node.decorator_list)]
            ways = [name, *entered, CHECKED_BY_A_CALLER.get(name, name)]
            assert any(is_checked(way, cells) for way in ways), f"{path.name} shows no check of {name}"
        elif isinstance(node, ast.ClassDef) and "Protocol" not in names_in(*node.bases):
            assert name in reached, f"{path.name} does not use {name}"


def test_every_public_method_is_used_somewhere():
    used = names_in(*(ast.parse(path.read_text(encoding="utf-8")) for path in modules().values()),
                    *(cell.tree for path in notebooks() for cell in own_cells(path)))
    for module, path in modules().items():
        for node in definitions(path).values():
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if not isinstance(method, ast.FunctionDef) or HOOKS.fullmatch(method.name): continue
                assert method.name.startswith("_") or method.name in used, f"{module}.{node.name}.{method.name}"


def test_every_lesson_has_its_notebook_and_uniform_exports():
    import importlib
    for lesson in LESSONS.values():
        assert (ROOT / "nbs" / lesson.notebook).is_file()
        module = importlib.import_module(lesson.module)
        for name in ("CONFIGS", "get_dls", "get_learner", "fit", "build_model"):
            assert hasattr(module, name), f"{lesson.module} lacks {name}"
        assert set(module.CONFIGS) == {"sample", "small", "full"}


def test_modules_are_in_step_and_notebooks_are_clean():
    assert clean(notebooks(), check=True) == []
    assert differences(ROOT) == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_are_made_of_small_cells_with_prose(path):
    cells = nbformat.read(path, as_version=4).cells
    title = next(cell for cell in cells if not cell.source.startswith("#| default_exp"))
    assert title in cells[:2] and re.match(r"# .+\n+> ", title.source), "module, title and promise come first"
    lengths = sorted(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code")
    assert lengths[-1] <= 31, "a cell has over 30 lines besides its directive"
    checked, with_output = checked_share(nbformat.read(path, as_version=4))
    assert checked >= CHECKED_SHARE * with_output, f"{checked} of {with_output} outputs are checked"
    if path.parent.name == "nbs": assert lengths[len(lengths) // 2] <= 5 and lengths[int(.9 * len(lengths))] <= 15
    assert path.stat().st_size < 2**20
    assert "widgets" not in nbformat.read(path, as_version=4).metadata


@pytest.mark.parametrize("module", sorted(modules()))
def test_modules_are_short(module):
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= 305, "split the notebook"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_no_output_fills_the_page(path):
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        for output in cell.get("outputs", []):
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            assert len(text.splitlines()) <= 45, f"cell {number}"
            if set(output.get("data", {})) == {"text/plain"}:
                assert not re.fullmatch(r"<[\w.]+( .*)?>", text), f"cell {number} shows a bare object"
                assert "np." not in text, f"cell {number} shows NumPy's own types, which differ between its versions"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_every_picture_has_an_alternative_text(path):
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        for output in cell.get("outputs", []):
            for kind in [key for key in output.get("data", {}) if key.startswith("image/")]:
                alt = output.metadata.get(kind, {}).get("alt", "")
                assert len(alt) > 15, f"the picture of cell {number} has no alternative text"


@pytest.mark.parametrize("module", sorted(modules()))
def test_public_functions_are_typed_and_documented(module):
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.col_offset == 0:
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"
            for argument in node.args.args + node.args.kwonlyargs:
                assert argument.annotation, f"{module}.{node.name}({argument.arg}) has no type"
            assert node.returns, f"{module}.{node.name} has no return type"


def test_import_is_light():
    code = ("import sys, time, json; start = time.perf_counter(); import lessonlib, lessonlib.core, lessonlib.data, "
            "lessonlib.lessons; print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))")
    runs = [json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
            for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 1
    assert not {name.split(".")[0] for name in runs[0][1]} & set(FORBIDDEN_AT_IMPORT)


def test_readme_and_cards_say_what_was_measured():
    assert write_results(ROOT, check=True) == [], "run: lessons table --write"


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_is_measured_at_the_sample_scale_with_its_spread(name):
    row = read_measured()[name]
    sample = row["sample"]
    assert len(set(sample.seeds)) >= 5 and sample.sd and sample.seconds <= 120 and sample.megabytes <= 2500
    for result in (sample, row["small"]):
        if result.value is None: continue
        assert result.baseline and result.beside and result.date and result.machine and result.command
        assert result.seconds <= 1800, "a lesson at `small` takes at most 30 minutes"
