"""The shape of the house: who may know whom, what is documented, what never stands in a source file."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
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
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth of it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.add(node.module or "")
    return found


# Who knows whom

WORDS = re.compile(
    r"\b(vision|images?|imagenet|cifar|pixels?|photos?|jpe?g|png|webp|videos?|audio|sounds?|speech|graphs?|molecules?"
    r"|medical\w*|volumes?|voxels?|multimodal|captions?|trajector\w+"
    r"|\w*mae|simclr|moco|byol|dino\w*|swav|barlow|vicreg|ijepa|jigsaw|rotations?|inpainting|bert"
    r"|timm|torchvision|torchaudio|monai|skimage|pil|pillow|opencv|cv2|vits?|resnets?|convnext|imagefolder|webdataset)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=ids)
def test_the_core_names_no_modality_method_or_plugin(path: Path) -> None:
    """Nowhere: not in code, names, messages, docstrings or comments. There are no exceptions."""
    with path.open("rb") as file:
        words = [
            f"{token.start[0]}: {found[0]}"
            for token in tokenize.tokenize(file.readline)
            for found in WORDS.finditer(spelt_out(token.string))
        ]
    assert words == []
    assert not WORDS.search(spelt_out(path.stem))


def spelt_out(text: str) -> str:
    """The text, and once more with ``load_image`` and ``LoadImage`` in their parts."""
    return text + " " + re.sub(r"_|(?<=[a-z])(?=[A-Z][a-z])", " ", text)


def test_a_word_in_a_name_would_be_found() -> None:
    for name in (
        "image_size",
        "ImageFolder",
        "load_images",
        "a ViT encoder",
        "ColorMAE",
        "as in SimCLR.",
        "unlabel_vision",
    ):
        assert WORDS.search(spelt_out(name)), name
    for name in ("clip_norm", "imagine", "maestro", "paragraph", "rotate"):
        assert not WORDS.search(spelt_out(name)), name


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_imports_point_from_plugins_to_the_core_only(path: Path) -> None:
    package = path.relative_to(
        ROOT / "core" / "src"
        if path.is_relative_to(CORE)
        else next(p.parent for p in PLUGINS if path.is_relative_to(p))
    ).parts[0]
    plugins = {name.partition(".")[0] for name in imports(path)} & {plugin.name for plugin in PLUGINS}
    assert plugins <= ({package} - {"unlabel"})


@pytest.mark.parametrize("path", TABLES, ids=ids)
def test_a_plugins_table_of_contents_imports_nothing_heavy(path: Path) -> None:
    assert imports(path) <= {"__future__", "unlabel"}


@pytest.mark.parametrize("project", [ROOT / "core", *sorted((ROOT / "plugins").iterdir())], ids=ids)
def test_every_library_that_is_imported_is_declared(project: Path) -> None:
    """By the project itself or, for a plugin, by the core it stands on."""
    declared: set[str] = set()
    for place in (project, ROOT / "core"):
        metadata = tomllib.loads((place / "pyproject.toml").read_text())["project"]
        lines = [
            *metadata["dependencies"],
            *(line for extra in metadata["optional-dependencies"].values() for line in extra),
        ]
        declared |= {re.split(r"[^\w.-]", line)[0].lower() for line in lines} | {metadata["name"]}
    providers = importlib.metadata.packages_distributions()

    used = {name.partition(".")[0] for path in (project / "src").rglob("*.py") for name in imports(path)}
    missing = {
        name
        for name in used - set(sys.stdlib_module_names)
        if name in providers and not declared & {provider.lower() for provider in providers[name]}
    }
    assert missing == set()


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


@pytest.mark.parametrize("package", [CORE, *PLUGINS], ids=ids)
def test_everything_public_is_documented(package: Path) -> None:
    """An override may leave it to the method it overrides, a hook's implementation to the hook."""
    elsewhere = documented_methods(package)
    silent = [
        f"{ids(path)}: {name}"
        for path in sorted(package.rglob("*.py"))
        for name, node in functions(path)
        if not ast.get_docstring(node)
        and not (name.rpartition(".")[2] in elsewhere and ("." in name or name in hookspecs.HOOKS))
    ]
    assert silent == []
    assert [ids(path) for path in package.rglob("*.py") if not ast.get_docstring(tree(path))] == []


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_every_function_is_annotated(path: Path) -> None:
    bare = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
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
            bare += [f"{node.lineno}: {node.name}({', '.join(unnamed)})"] if unnamed or not returns else []
    assert bare == []


def test_every_hook_is_documented_with_what_it_offers() -> None:
    for hook in hookspecs.HOOKS:
        document = getattr(hookspecs, hook).__doc__
        assert document, hook
        assert re.search(r"(subclasses|functions|classes or functions)\b", document), hook
    specified = {name for name, node in functions(CORE / "catalog/hookspecs.py") if isinstance(node, ast.FunctionDef)}
    assert specified == set(hookspecs.HOOKS), "HOOKS lists them all"


@pytest.mark.parametrize("hook", hookspecs.HOOKS)
def test_every_hook_is_used_by_a_plugin_of_the_tests(hook: str) -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve())
    assert re.search(rf"def {hook}\(|offering\(\"{hook}\"", tests)


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


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_a_modules_public_list_is_true(path: Path) -> None:
    """What ``__all__`` lists is there; nothing in it is private."""
    listed = [
        node.value
        for node in tree(path).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if not listed or not isinstance(listed[0], ast.List):
        return
    parts = path.with_suffix("").parts
    name = ".".join(parts[len(parts) - parts[::-1].index("src") :]).removesuffix(".__init__")
    module = importlib.import_module(name)
    names = ast.literal_eval(listed[0])
    assert [entry for entry in names if not hasattr(module, entry) or entry.startswith("_")] == []
    assert len(names) == len(set(names))


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


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_nothing_is_unpickled_evaluated_or_fetched(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & FORBIDDEN_MODULES
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called, keywords = (
            ast.unparse(node.func),
            {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
        )
        where = f"{ids(path)}:{node.lineno}: {called}"
        assert called not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
        assert called not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"), where
        assert keywords.get("weights_only") != "False", where
        assert keywords.get("allow_pickle") != "True", where
        assert keywords.get("shell") != "True", where
        assert keywords.get("trust_remote_code") != "True", where
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", where
