"""The shape of the house: who may know whom, what is documented, what never stands in a source file."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unlabel
from unlabel.catalog import hookspecs

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "src" / "unlabel"
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("*/src/unlabel_*") if path.is_dir())
SOURCES = [path for package in (CORE, *PLUGINS) for path in sorted(package.rglob("*.py"))]
TABLES = [path for package in PLUGINS for path in (package / "plugin.py", package / "__init__.py")]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    """A file's syntax, read once as long as it stays as it is."""
    return _tree(path, path.stat().st_mtime_ns)


@functools.cache
def _tree(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax, walked once."""
    return _nodes(path, path.stat().st_mtime_ns)


@functools.cache
def _nodes(path: Path, changed: int) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_tree(path, changed)))


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth of it."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.add(node.module or "")
    return found


# Who knows whom

OWN_FIELDS = {"index", "key"}
"""What the loader adds to every batch: the only fields that the core may know by name."""

MODALITY_LIBRARIES = {
    *("timm", "torchvision", "cv2", "skimage", "av", "decord", "torchcodec", "torchaudio", "soundfile", "librosa"),
    *("monai", "nibabel", "pydicom", "torch_geometric", "dgl", "networkx", "pymetis", "open_clip", "transformers"),
    *("tokenizers", "sentencepiece"),
}
"""What reads or models one kind of data."""

ORDINARY = {"supervised"}
"""Methods whose name is the field's word for what the core does too: a probe is trained by a supervised loop."""

OF_TORCH = {"retain_graph", "create_graph", "graph_signature"}
"""torch's words about its graph of operations."""

DRAWN = ("show", "report")
"""Folders of the core in which a picture's shape is known: (H, W, 3) is what a picture is there, whatever it is of."""


def offered(kind: str) -> set[str]:
    """Names that the plugins of this repository offer, without their plugin: the keys of what hook `kind` returns."""
    names = set()
    for package in PLUGINS:
        for node in ast.walk(tree(package / "plugin.py")):
            if isinstance(node, ast.FunctionDef) and node.name == kind:
                keys = [key for entry in ast.walk(node) if isinstance(entry, ast.Dict) for key in entry.keys]
                names |= {str(ast.literal_eval(key)).rpartition("/")[2] for key in keys if key is not None}
    return names


def spelt_out(name: str) -> str:
    """An identifier as words between underscores: ``LoadImage`` and ``load_image`` are ``_load_image_``."""
    return "_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_") + "_"


def known_by(path: Path, names: set[str]) -> list[str]:
    """Identifiers of a file (its own name, too) that hold one of these names as words, written apart or together."""
    words = "|".join(sorted(names | {name.replace("_", "") for name in names}))
    named, together = re.compile(f"_({words})_"), {name.replace("_", "") for name in names}
    used = {path.stem: 0, path.parent.name: 0}
    for node in nodes(path):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                used |= dict.fromkeys(value.split("."), getattr(node, "lineno", 0))
    return [
        f"{ids(path)}:{line}: {name}"
        for name, line in used.items()
        if name.lower() in together or named.search(spelt_out(name))
    ]


def fields_known_by(path: Path) -> list[str]:
    """Fields of batches and samples that a file reads by name: ``batch["key"]``, ``"key" in batch``."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Subscript):
            base, names = node.value, [node.slice]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            base, names = node.comparators[0], [node.left]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            base, names = node.func.value, node.args[:1]
        else:
            continue
        if re.search(r"\b(batch|batches|sample|samples)\b(?!\.)", ast.unparse(base)):
            fields = [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]
            found += [f"{ids(path)}:{node.lineno}: {field}" for field in fields if field not in OWN_FIELDS]
    return found


def shapes_known_by(path: Path) -> list[str]:
    """Comparisons of a shape with three or four channels: ``x.shape[2] == 3``, ``x.shape[-3:] == (3, 32, 32)``."""
    found = []
    for node in nodes(path):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        shapes = [side for side in sides if re.search(r"\.(shape|size\(\))\[", ast.unparse(side))]
        wanted = [entry for side in sides if side not in shapes for entry in ast.walk(side)]
        if shapes and {entry.value for entry in wanted if isinstance(entry, ast.Constant)} & {3, 4}:
            found.append(f"{ids(path)}:{node.lineno}: {ast.unparse(node)}")
    return found


def names_in_values(path: Path, plugins: set[str]) -> list[str]:
    """Texts that name a plugin's component, docstrings apart: ``"vision/mae"`` in a default or a comparison."""
    documents = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents
    ]
    named = re.compile(rf"\b({'|'.join(sorted(plugins))})/\w|\bunlabel[_-]({'|'.join(sorted(plugins))})\b")
    return [f"{ids(path)}:{node.lineno}: {node.value}" for node in texts if named.search(node.value)]


def test_the_core_knows_no_modality_method_or_plugin() -> None:
    """Not by what it does: it names no field or shape of their samples, no library of theirs, and none of them.

    A word in a docstring, an example or the name of a format does nothing, and may be the right one.
    """
    plugins = {package.name.removeprefix("unlabel_") for package in PLUGINS}
    names = plugins | (offered("tasks") | offered("encoders")) - ORDINARY
    known: list[str] = []
    for path in sorted(CORE.rglob("*.py")):
        drawn = path.relative_to(CORE).parts[0] in DRAWN
        kit = path.parent.name == "testing"  # whose toy has data of its own
        known += [] if kit else fields_known_by(path)
        known += [] if drawn else shapes_known_by(path)
        known += [name for name in known_by(path, names) if name.rpartition(": ")[2] not in OF_TORCH]
        known += names_in_values(path, plugins)
        libraries = {name.partition(".")[0] for name in imports(path)} & MODALITY_LIBRARIES
        known += [f"{ids(path)}: imports {name}" for name in sorted(libraries)]
    assert not known, "\n".join(known)


def test_what_knows_a_modality_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "lines.py"

    def found(line: str, *kinds: Callable[[Path], list[str]]) -> list[str]:
        path.write_text(f'"""Loads an image for vision/mae, in shape[2] == 3."""\n{line}\n', encoding="utf-8")
        return [entry.partition(": ")[2] for kind in kinds for entry in kind(path)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ids", lambda path: path.name)
        for line, name in {
            "loss(batch['image'])": "image",
            "x = samples[0]['wave']": "wave",
            "'edge_index' in batch": "edge_index",
            "batch.get('tokens')": "tokens",
        }.items():
            assert found(line, fields_known_by) == [name]
        assert found("batch['key'], metrics['loss'], batch.shape['x'], 'x' in batch.keys", fields_known_by) == []
        for line in ("x.shape[2] == 3", "x.shape[-3:] == (3, height, width)", "x.shape[1] in (1, 3)"):
            assert found(line, shapes_known_by) == [line]
        assert found("x.shape == y.shape, x.shape[1] == width, x.shape[3] == 1, count == 3", shapes_known_by) == []
        names = {"mae", "vision", "pair_sim"}
        for word in ("load_mae", "MAE", "ColorMae", "vision_of", "PairSim", "pairsim"):
            assert found(f"{word} = 1", lambda path: known_by(path, names)) == [word]
            assert found(f"def f({word}): pass", lambda path: known_by(path, names)) == [word]
        assert found("maestro = revision = television = 1", lambda path: known_by(path, names)) == []
        assert found("f(name='vision/mae')", lambda path: names_in_values(path, {"vision"})) == ["vision/mae"]
        assert found("f(name='revision/mae', of='a vision')", lambda path: names_in_values(path, {"vision"})) == []


def test_imports_point_from_plugins_to_the_core_only() -> None:
    packages = {path.name for path in PLUGINS}
    wrong = []
    for path in SOURCES:
        own = next((package.name for package in PLUGINS if path.is_relative_to(package)), "unlabel")
        others = ({name.partition(".")[0] for name in imports(path)} & packages) - {own}
        wrong += [f"{ids(path)} imports {name}" for name in sorted(others)]
    assert not wrong, "\n".join(wrong)


def test_a_plugins_table_of_contents_imports_nothing_heavy() -> None:
    heavy = [f"{ids(path)} imports {name}" for path in TABLES for name in imports(path) - {"__future__", "unlabel"}]
    assert not heavy, "\n".join(heavy)


def test_every_library_that_is_imported_is_declared() -> None:
    """By the project itself or, for a plugin, by the core it stands on."""
    providers = importlib.metadata.packages_distributions()
    missing = []
    for project in (ROOT / "core", *sorted(path for path in (ROOT / "plugins").iterdir() if (path / "src").is_dir())):
        declared: set[str] = set()
        for place in (project, ROOT / "core"):
            metadata = tomllib.loads((place / "pyproject.toml").read_text())["project"]
            lines = [
                *metadata["dependencies"],
                *(line for extra in metadata["optional-dependencies"].values() for line in extra),
            ]
            declared |= {re.split(r"[^\w.-]", line)[0].lower() for line in lines} | {metadata["name"]}
        used = {name.partition(".")[0] for path in (project / "src").rglob("*.py") for name in imports(path)}
        missing += [
            f"{ids(project)}: {name}"
            for name in sorted(used - set(sys.stdlib_module_names))
            if name in providers and not declared & {provider.lower() for provider in providers[name]}
        ]
    assert not missing, "\n".join(missing)


def test_files_are_named_after_what_is_in_them() -> None:
    names = {path.stem for path in SOURCES} | {
        path.name for path in (*CORE.rglob("*"), *(p for q in PLUGINS for p in q.rglob("*"))) if path.is_dir()
    }
    assert not names & {"utils", "util", "base", "common", "helpers", "helper", "misc", "shared", "core", "tools"}


# What is documented


def functions(path: Path) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public classes, functions and methods, with their dotted names."""

    def within(
        node: ast.AST, prefix: str
    ) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith(
                "_"
            ):
                yield f"{prefix}{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from within(child, f"{prefix}{child.name}.")

    return within(tree(path), "")


def documented_methods(package: Path) -> set[str]:
    """Names of methods and attributes that are documented where they are introduced, in the core or the same package.

    By a docstring of their own, under ``Attributes:``, or as ``name(...)`` in the text of their class or module.
    """
    paths = [*CORE.rglob("*.py"), *package.rglob("*.py")]
    found = set(hookspecs.HOOKS)
    for path in paths:
        nodes = [("", tree(path)), *functions(path)]
        for name, node in nodes:
            document = ast.get_docstring(node) or ""
            found |= {name.rpartition(".")[2]} if document and "." in name else set()
            found |= set(re.findall(r"``(\w+)\(", document)) | set(re.findall(r"^ {4}(\w+): ", document, re.MULTILINE))
    return found


def test_everything_public_is_documented() -> None:
    """An override may leave it to the method it overrides, a hook's implementation to the hook."""
    silent = [ids(path) for path in SOURCES if not ast.get_docstring(tree(path))]
    for package in (CORE, *PLUGINS):
        elsewhere = documented_methods(package)
        silent += [
            f"{ids(path)}: {name}"
            for path in sorted(package.rglob("*.py"))
            for name, node in functions(path)
            if not ast.get_docstring(node)
            and not (name.rpartition(".")[2] in elsewhere and ("." in name or name in hookspecs.HOOKS))
        ]
    assert not silent, "\n".join(silent)


def test_every_function_is_annotated() -> None:
    bare = []
    for path in SOURCES:
        for node in nodes(path):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            arguments = [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]
            unnamed = [
                a.arg for a in arguments if a is not None and a.annotation is None and a.arg not in ("self", "cls")
            ]
            returns = node.returns is not None or node.name == "__init__"
            where = f"{ids(path)}:{node.lineno}: {node.name}({', '.join(unnamed)})"
            bare += [where] if unnamed or not returns else []
    assert not bare, "\n".join(bare)


def test_every_hook_is_documented_with_what_it_offers() -> None:
    for hook in hookspecs.HOOKS:
        document = getattr(hookspecs, hook).__doc__
        assert document, hook
        assert re.search(r"(subclasses|functions|classes or functions)\b", document), hook
    specified = {name for name, node in functions(CORE / "catalog/hookspecs.py") if isinstance(node, ast.FunctionDef)}
    assert specified == set(hookspecs.HOOKS), "HOOKS lists them all"


def test_every_hook_is_used_by_a_plugin_of_the_tests() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve())
    assert [hook for hook in hookspecs.HOOKS if not re.search(rf"def {hook}\(|offering\(\"{hook}\"", tests)] == []


# Public names


def test_the_public_names_are_those_that_can_be_imported() -> None:
    assert dir(unlabel) == unlabel.__all__ == sorted(unlabel.__all__)
    for name in unlabel.__all__:
        found = getattr(unlabel, name)
        assert name in ("__version__", "hookimpl", "Batch", "Sample") or found.__module__.startswith("unlabel."), name
    with pytest.raises(AttributeError, match="module 'unlabel' has no attribute 'Tusk'"):
        unlabel.Tusk  # noqa: B018


def test_type_checkers_see_the_same_public_names_from_the_same_places() -> None:
    [block] = [node for node in tree(CORE / "__init__.py").body if isinstance(node, ast.If)]
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == unlabel._HOME


def test_a_modules_public_list_is_true() -> None:
    """What ``__all__`` lists is there, once; nothing in it is private."""
    wrong = []
    for path in SOURCES:
        listed = [
            node.value
            for node in tree(path).body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ]
        if not listed or not isinstance(listed[0], ast.List):
            continue
        parts = path.with_suffix("").parts
        name = ".".join(parts[len(parts) - parts[::-1].index("src") :]).removesuffix(".__init__")
        module, names = importlib.import_module(name), ast.literal_eval(listed[0])
        wrong += [
            f"{ids(path)}: {entry}"
            for entry in names
            if not hasattr(module, entry) or entry.startswith("_") or names.count(entry) > 1
        ]
    assert not wrong, "\n".join(wrong)


# What never stands in a source file

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
    "requests",
    "urllib",
    "http",
    "socket",
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
}
FORBIDDEN_KEYWORDS = {"weights_only": "False", "allow_pickle": "True", "shell": "True", "trust_remote_code": "True"}


def test_nothing_is_unpickled_evaluated_or_fetched() -> None:
    wrong = []
    for path in SOURCES:
        modules = sorted({name.partition(".")[0] for name in imports(path)} & FORBIDDEN_MODULES)
        wrong += [f"{ids(path)}: imports {name}" for name in modules]
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {str(keyword.arg): ast.unparse(keyword.value) for keyword in node.keywords}
            trusting = called == "torch.load" and keywords.get("weights_only") != "True"
            if called in FORBIDDEN_CALLS or trusting or keywords.items() & FORBIDDEN_KEYWORDS.items():
                wrong.append(f"{ids(path)}:{node.lineno}: {called}")
    assert not wrong, "\n".join(wrong)
