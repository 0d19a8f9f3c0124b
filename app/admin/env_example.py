"""Renders env.example from the settings, so that no setting is undocumented and none is invented."""

from enum import Enum
from textwrap import wrap
from typing import Any

from pydantic import SecretStr

from app.settings import GROUPS, Group

_HEAD = """\
# Configuration. Copy this file to .env and change what you need; every line shows its default.
# A value in the environment wins over the same name in .env. Any of the three keys can be read
# from a file instead: set <NAME>_FILE.
"""


def render_env_example() -> str:
    """The whole file; ends with a line break."""
    return _HEAD + "".join(_render_group(group) for group in GROUPS.values())


def _render_group(group: type[Group]) -> str:
    title = (group.__doc__ or "").splitlines()[0]
    lines = ["", f"# --- {title}"]
    for field in group.model_fields.values():
        lines += [f"# {line}" for line in wrap(field.description or "", 96)]
        default = field.get_default(call_default_factory=True)
        lines.append(f"{field.alias}={_render_value(default)}")
    return "\n".join(lines) + "\n"


def _render_value(value: Any) -> str:  # a default may be of any type that a setting has
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case SecretStr():
            return value.get_secret_value()
        case Enum():
            return str(value.value)
        case list():
            return ",".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return str(value)
