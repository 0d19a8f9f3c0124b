"""The Dockerfile as data, and a builder that carries it out in folders instead of an image.

No container engine is needed: `/app` and `/opt` become folders below a stage's root, and every
ENV, RUN, COPY, USER, HEALTHCHECK and CMD is taken from the file as it stands.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
_IMAGE_PATH = re.compile(r"(?<![\w./-])/(app|opt)(?=[/:\s]|$)")
_BUILD_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    name: str
    value: str


def read_dockerfile() -> list[Instruction]:
    entries = DockerfileParser(str(ROOT / "Dockerfile")).structure
    return [
        Instruction(entry["instruction"], entry["value"])
        for entry in entries
        if entry["instruction"] != "COMMENT"
    ]


def list_context() -> Iterator[PurePosixPath]:
    """The files that .dockerignore lets into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    allowed = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    for name in sorted(allowed):
        start = ROOT / name
        for file in [start] if start.is_file() else sorted(start.rglob("*")):
            path = PurePosixPath(file.relative_to(ROOT).as_posix())
            if file.is_file() and not _is_ignored(path, patterns):
                yield path


def _is_ignored(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """The last pattern that fits the path, or a folder that holds it, decides."""
    ignored = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        parts = [path, *path.parents]
        if wanted.startswith("**/"):
            fits = any(fnmatch(part.name, wanted.removeprefix("**/")) for part in parts)
        else:
            fits = any(fnmatch(str(part), wanted) and "/" not in str(part) for part in parts)
        if fits:
            ignored = not pattern.startswith("!")
    return ignored


@dataclass
class Stage:
    """What one FROM ... made: its files, and how it wants to be run."""

    root: Path
    environment: dict[str, str]
    directory: str = "/"
    user: str | None = None
    command: list[str] = field(default_factory=list[str])
    health_check: list[str] = field(default_factory=list[str])
    volumes: list[str] = field(default_factory=list[str])

    def place(self, path: str) -> Path:
        """Where a path of the image lies in truth."""
        absolute = PurePosixPath(self.directory) / path
        return self.root / str(absolute).lstrip("/")

    def translate(self, text: str) -> str:
        return _IMAGE_PATH.sub(lambda found: f"{self.root}/{found[1]}", text)

    def real_environment(self) -> dict[str, str]:
        return {name: self.translate(value) for name, value in self.environment.items()}


class Builder:
    """Carries out instructions stage by stage; the last stage is the image."""

    def __init__(self, root: Path, *, owner: int | None) -> None:
        self.root = root
        # Only root may give files away; anybody else stands for the image's user.
        self.ids = (owner, owner) if owner is not None else (os.getuid(), os.getgid())
        self.stages: dict[str, Stage] = {}
        self.current = Stage(root, {})
        shims = root / "shims"
        shims.mkdir()
        _write_program(shims / "python", f'exec {shlex.quote(find_interpreter(owner))} "$@"')
        self.base_path = f"{shims}:/usr/local/bin:/usr/bin:/bin"

    def build(self) -> Stage:
        for instruction in read_dockerfile():
            handler = getattr(self, f"_do_{instruction.name.lower()}")
            handler(instruction.value)
        return self.current

    def _do_arg(self, value: str) -> None:
        pass

    _do_label = _do_expose = _do_stopsignal = _do_arg

    def _do_from(self, value: str) -> None:
        name = value.split(" AS ")[1] if " AS " in value else str(len(self.stages))
        root = self.root / name
        root.mkdir()
        self.current = self.stages[name] = Stage(root, {"PATH": self.base_path})

    def _do_env(self, value: str) -> None:
        known = self.current.environment
        for assignment in shlex.split(value):
            name, _, text = assignment.partition("=")
            known[name] = re.sub(r"\$(\w+)", lambda found: known[found[1]], text)

    def _do_workdir(self, value: str) -> None:
        self.current.directory = value
        self.current.place(".").mkdir(parents=True, exist_ok=True)

    def _do_user(self, value: str) -> None:
        self.current.user = value

    def _do_volume(self, value: str) -> None:
        self.current.volumes.append(value)

    def _do_cmd(self, value: str) -> None:
        self.current.command = json.loads(value)

    def _do_healthcheck(self, value: str) -> None:
        self.current.health_check = json.loads(value.partition(" CMD ")[2])

    def _do_copy(self, value: str) -> None:
        *sources, target = shlex.split(value)
        place = self.current.place(target)
        if sources[0].startswith("--from="):
            stage = self.stages[sources.pop(0).removeprefix("--from=")]
            for source in sources:
                shutil.copytree(stage.place(source), place, symlinks=True, dirs_exist_ok=True)
            return
        for source in sources:
            self._copy_context(source, place if not target.endswith("/") else place / source)

    def _copy_context(self, source: str, target: Path) -> None:
        files = [
            file
            for file in list_context()
            if str(file) == source or PurePosixPath(source) in file.parents
        ]
        assert files, f"COPY {source}: nothing of that name is in the build context"
        for file in files:
            copy = target / file.relative_to(source) if str(file) != source else target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copy)

    def _do_run(self, value: str) -> None:
        user, group = self.ids
        command = re.sub(r"-o \d+ -g \d+", f"-o {user} -g {group}", self.current.translate(value))
        # The machine's way to the package index (proxies, mirrors, certificates) is the engine's too.
        network = {
            name: text
            for name, text in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "HOME")) or name.lower().endswith("_proxy")
        }
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.current.place("."),
            env=network | self.current.real_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
        )
        assert done.returncode == 0, f"RUN {value}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def find_interpreter(owner: int | None) -> str:
    """A Python that can make environments and that the image's user may execute."""
    ours = Path(sys.base_prefix) / "bin" / "python3"
    probe = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in (str(ours), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run(
                [candidate, "-c", probe], check=False, capture_output=True, cwd="/", user=owner
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    raise FileNotFoundError


def _write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
