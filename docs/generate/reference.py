"""Reference pages: the command line out of its own parser, recipes out of their fields, Python out of the source."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from components import Page
from docstrings import prose, table, to_markdown
from pydantic import BaseModel

import unlabel
from unlabel import Catalog, Recipe, Ref, Stage, cli, recipe

__all__ = ["commands", "modules", "public", "recipes"]

_UNLISTED = ("unlabel.cli", "unlabel.catalog.builtin", "unlabel.__main__")

# The command line


def commands(catalog: Catalog) -> Page:
    """Every command with its arguments and options, the plugins' commands too."""
    group = typer.main.get_command(cli.app)
    text = (
        "# Command line\n\n`python -m unlabel` is the same as `unlabel`. Results go to standard output, messages to"
        " standard error, so that `--json` can be piped. Exit codes: 0 well, 1 failed on the way, 2 asked for"
        " something that cannot be, 128 + n stopped by signal n.\n"
    )
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # typer's group has them
        text += f"\n## unlabel {name}\n\n{_command(command, f'unlabel {name}')}\n"
    text += f"\n## Everywhere\n\n{_parameters(group.params)}\n"
    offers = catalog.offers("commands")
    if offers:
        text += "\n## Commands of plugins\n"
    for offer in offers:
        made = typer.Typer(add_completion=False)
        made.command(offer.name)(offer.load())
        command = typer.main.get_command(made)
        text += (
            f"\n### unlabel {offer.name}\n\nOf plugin `{offer.plugin}`. {_command(command, f'unlabel {offer.name}')}\n"
        )
    return "reference/cli.md", "Command line", text


def _command(command: Any, path: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([path, *(_metavar(p) for p in arguments), "[OPTIONS]"])
    return f"{prose(command.help or '')}\n\n```text\n{usage}\n```\n\n{_parameters(command.params)}"


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _parameters(parameters: list[Any]) -> str:
    rows = []
    for parameter in parameters:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        if parameter.param_type_name == "argument":
            shown, default = f"`{_metavar(parameter)}`", "required" if parameter.required else ""
        else:
            flag = " / ".join([*parameter.opts, *parameter.secondary_opts])
            value = "" if parameter.is_flag else f" {parameter.metavar or 'N'}"
            shown = f"`{flag}{value}`"
            unset = parameter.default in (None, False, [], ())
            default = "required" if parameter.required else "" if unset else f"`{_default(parameter)}`"
        rows.append((shown, default, prose(parameter.help or "")))
    return table(("word", "default", "meaning"), rows)


def _default(parameter: Any) -> str:
    if parameter.is_flag:
        return str((parameter.opts if parameter.default else parameter.secondary_opts or parameter.opts)[0])
    return str(parameter.default)


# Recipes


def recipes() -> Page:
    """Every field of a recipe."""
    text = (
        "# Fields of a recipe\n\nThe same names in Python, in JSON and YAML files, and after `--set`: "
        "`--set seed=3`, `--set stages.0.lr=1e-3`, `--set execution.precision=fp32`. One task and one encoder are "
        "written as `task` and `encoder` instead of `tasks` and `encoders`. "
        "How recipes are used: [Recipes and --set](../recipes.md).\n"
    )
    for model, prefix in (
        (Recipe, ""),
        (Stage, "stages.0."),
        (recipe.Group, "stages.0.groups.0."),
        (recipe.Judging, "judging."),
        (recipe.Combination, "combination."),
        (recipe.Execution, "execution."),
    ):
        document = to_markdown(inspect.cleandoc(model.__doc__ or ""))
        text += f"\n## {model.__name__}\n\n{document}\n\n{_fields(model, prefix)}\n"
    return "reference/recipe.md", "Fields of a recipe", text


def _fields(model: type[BaseModel], prefix: str) -> str:
    source = _annotations(model)
    rows = []
    for name, field in model.model_fields.items():
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else f"`{value!r}`"
        if isinstance(value, Ref):
            default = f"`{value.name}`"
        elif isinstance(value, BaseModel):
            default = "its defaults"
        rows.append((f"`{prefix}{name}`", f"`{source.get(name, '')}`", default, prose(field.description or "")))
    return table(("field", "type", "default", "meaning"), rows)


def _annotations(model: type[BaseModel]) -> dict[str, str]:
    """The types as they stand in the source, which reads better than what became of them."""
    [node] = [
        node for node in _tree(model.__module__).body if isinstance(node, ast.ClassDef) and node.name == model.__name__
    ]
    return {
        entry.target.id: _plain(ast.unparse(entry.annotation))
        for entry in node.body
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
    }


def _plain(annotation: str) -> str:
    """A type without its bounds, and choices as their values."""
    annotation = re.sub(r"Annotated\[(\w+), Field\(.*?\)\]", r"\1", annotation)
    return re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | "), annotation)


# Python, read from the source: nothing is imported that would have to be there


def public() -> Page:
    """The public names of the package itself."""
    text = (
        "# Python: `unlabel`\n\nThe names that `import unlabel` gives. They are loaded when first used, so that the "
        "import itself is quick. What is stable about them: [compatibility](../plugins/compatibility.md).\n"
    )
    for name in unlabel.__all__:
        if name != "__version__":
            text += _name(_home(unlabel._HOME[name], name), name)
    return "reference/python.md", "unlabel", text


def modules() -> Iterator[Page]:
    """A page for each module of the core with a public list."""
    for found in sorted(pkgutil.walk_packages(unlabel.__path__, "unlabel."), key=lambda found: found.name):
        tree = _tree(found.name)
        names = _listed(tree)
        if found.name.startswith(_UNLISTED) or not names:
            continue
        text = f"# `{found.name}`\n\n{to_markdown(ast.get_docstring(tree) or '')}\n"
        for name in names:
            home = _home(found.name, name)
            text += _name(home, name) if home == found.name else _reference(home, name)
        yield f"reference/modules/{found.name.removeprefix('unlabel.')}.md", found.name.removeprefix("unlabel."), text


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _listed(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else []
    return []


def _home(module: str, name: str) -> str:
    """The module that defines what another one passes on under the same name."""
    for node in _tree(module).body:
        passed_on = isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}
        if passed_on and (node.module or "").startswith("unlabel."):
            return _home(node.module, name)
    return module


def _reference(home: str, name: str) -> str:
    """The section of a name that is defined elsewhere: where to read about it."""
    page = home.removeprefix("unlabel.")
    return f"\n## {name} {{ #{name} }}\n\nSee [`{home}.{name}`]({page}.md#{name}).\n"


def _name(module: str, name: str) -> str:
    """The section of one name: signature and docstring, and for a class its public methods and attributes."""
    body = _tree(module).body
    node, document = _find(body, name)
    heading = f"\n## {name} {{ #{name} }}\n\n"
    if isinstance(node, ast.FunctionDef):
        return f"{heading}{_signature(node, name)}\n\n{to_markdown(ast.get_docstring(node) or '')}\n"
    if isinstance(node, ast.ClassDef):
        return heading + _class(node)
    value = f"```python\n{ast.unparse(node)}\n```\n\n" if node is not None and len(ast.unparse(node)) < 200 else ""
    return f"{heading}{value}{to_markdown(document)}\n"


def _find(body: list[ast.stmt], name: str) -> tuple[ast.stmt | None, str]:
    """The statement that defines a name, and the string that documents it if it is an assignment."""
    for number, node in enumerate(body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node, ""
        if name in _targets(node):
            return node, _string(body[number + 1] if number + 1 < len(body) else None)
    return None, ""


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def _string(node: ast.stmt | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return "\n".join(line.strip() for line in value.value.split("\n"))
    return ""


def _class(node: ast.ClassDef) -> str:
    made = next((entry for entry in node.body if isinstance(entry, ast.FunctionDef) and entry.name == "__init__"), None)
    bases = ", ".join(ast.unparse(base) for base in node.bases if not ast.unparse(base).startswith("_"))
    head = _signature(made, node.name) if made else f"```python\nclass {node.name}{f'({bases})' if bases else ''}\n```"
    text = f"{head}\n\n{to_markdown(ast.get_docstring(node) or '')}\n"
    for number, entry in enumerate(node.body):
        if isinstance(entry, ast.FunctionDef) and not entry.name.startswith("_") and ast.get_docstring(entry):
            decorators = {ast.unparse(decorator) for decorator in entry.decorator_list}
            shown = "" if "property" in decorators else _signature(entry, entry.name)
            text += f"\n### {node.name}.{entry.name}\n\n{shown}\n\n{to_markdown(ast.get_docstring(entry) or '')}\n"
        document = _string(node.body[number + 1] if number + 1 < len(node.body) else None)
        for name in _targets(entry) if document else ():
            text += f"\n### {node.name}.{name}\n\n```python\n{ast.unparse(entry)}\n```\n\n{to_markdown(document)}\n"
    return text


def _signature(node: ast.FunctionDef, name: str) -> str:
    arguments = [part for part in _arguments(node.args) if part not in ("self", "cls")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) > 88:
        line = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"
    return f"```python\n{line}\n```"


def _arguments(node: ast.arguments) -> Iterator[str]:
    positional = [*node.posonlyargs, *node.args]
    defaults = [None] * (len(positional) - len(node.defaults)) + list(node.defaults)
    for number, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        yield ast.unparse(argument) + _value(argument, default)
        if number + 1 == len(node.posonlyargs):
            yield "/"
    if node.vararg:
        yield f"*{ast.unparse(node.vararg)}"
    elif node.kwonlyargs:
        yield "*"
    for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        yield ast.unparse(argument) + _value(argument, default)
    if node.kwarg:
        yield f"**{ast.unparse(node.kwarg)}"


def _value(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ""
    return (" = " if argument.annotation else "=") + ast.unparse(default)
