"""Names and imports, as docs/decisions/0001 has them."""

import ast
from pathlib import Path

from tests.architecture.source import APP, ROOT, list_modules

# Names that invite a file that holds everything.
_REFUSED_NAMES = {"service", "utils", "util", "helpers", "common", "misc", "base", "manager"}


def test_no_file_or_folder_has_a_name_that_holds_everything() -> None:
    paths = [path.relative_to(ROOT) for path in APP.rglob("*") if "__pycache__" not in path.parts]
    assert [str(path) for path in paths if path.stem in _REFUSED_NAMES] == []


def test_package_files_are_empty() -> None:
    full = [path for path in APP.rglob("__init__.py") if path.read_text().strip()]
    assert full == []


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        str(module.path)
        for module in list_modules()
        if module.tree.body and not ast.get_docstring(module.tree)
    ]
    assert silent == []


def test_no_import_hides_in_a_function_or_behind_type_checking() -> None:
    hidden: list[str] = []
    for module in list_modules():
        top = {id(node) for node in module.tree.body}
        hidden += [
            f"{module.path}:{node.lineno}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top
        ]
    assert hidden == []


def test_a_slice_has_a_manifest_that_the_catalog_lists() -> None:
    catalog = (APP / "catalog.py").read_text()
    features = APP / "features"
    slices = [path for path in features.iterdir() if (path / "__init__.py").exists()]
    unlisted = [
        path.name
        for path in slices
        if (path / "feature.py").exists() and f"app.features.{path.name}.feature" not in catalog
    ]
    assert unlisted == []


def test_all_sql_tables_are_declared_in_models_files() -> None:
    declared: list[Path] = []
    for module in list_modules(APP / "features"):
        names = {
            target.id
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if "__tablename__" in names and module.path.name != "models.py":
            declared.append(module.path)
    assert declared == []
