"""The served OpenAPI document as a judge of answers."""

import re
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs

Json = Any  # what json.loads answers
OUTAGE = "503"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path template, with its documented answers."""

    method: str
    path: str
    takes_json: bool
    answers: dict[str, Json]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


# Of all servers of this test run: some answers take a server with other settings.
SEEN: set[tuple[str, str]] = set()
FAULTS: dict[str, None] = {}


@dataclass
class OpenApi:
    """Judges answers and remembers which documented ones were seen."""

    document: Json
    seen: set[tuple[str, str]] = field(default_factory=lambda: SEEN)
    faults: dict[str, None] = field(default_factory=lambda: FAULTS)

    def __post_init__(self) -> None:
        self.operations = [
            Operation(method, path, _takes_json(definition), definition["responses"])
            for path, item in self.document["paths"].items()
            for method, definition in item.items()
            if method in METHODS
        ]
        # Literal segments win over parameters: /users/me before /users/{user_id}.
        ordered = sorted(self.operations, key=lambda operation: operation.path.count("{"))
        self._matchers = [(_pattern(operation.path), operation) for operation in ordered]
        self._validators: dict[tuple[str, str], jsonschema_rs.Validator | None] = {}

    def find(self, method: str, path: str) -> Operation | None:
        for pattern, operation in self._matchers:
            if operation.method == method.lower() and pattern.fullmatch(path):
                return operation
        return None

    def judge(self, method: str, path: str, status: int, media_type: str, body: Json) -> None:
        """Note this answer as seen, or as a fault when the document does not announce it."""
        operation = self.find(method, path)
        if operation is None:
            return
        answer = operation.answers.get(str(status))
        if answer is None:
            code = body.get("code") if isinstance(body, dict) else ""
            self.faults[f"{operation} answered {status} {code}, which is not documented"] = None
            return
        self.seen.add((str(operation), str(status)))
        content = answer.get("content")
        if not content:
            if body is not None:
                self.faults[
                    f"{operation} answered {status} with a body, which is not documented"
                ] = None
            return
        if "*/*" in content or operation.method == "head":
            return
        if media_type not in content:
            self.faults[
                f"{operation} answered {status} as {media_type!r}, documented: {list(content)}"
            ] = None
            return
        validator = self._validator(operation, str(status), content[media_type].get("schema"))
        for error in validator.iter_errors(body) if validator else ():
            place = re.sub(r"\d+", "*", "/".join(str(part) for part in error.instance_path))
            self.faults[f"{operation} {status}: {place or 'the body'}: {error.message[:200]}"] = (
                None
            )

    def unseen(self) -> list[str]:
        """Documented answers that nothing provoked. Of an outage one is enough: one layer answers it for all."""
        documented = {
            (str(operation), status)
            for operation in self.operations
            for status in operation.answers
            if status != OUTAGE
        }
        if not any(status == OUTAGE for _, status in self.seen):
            return [f"any operation -> {OUTAGE}"]
        return sorted(f"{operation} -> {status}" for operation, status in documented - self.seen)

    def _validator(
        self, operation: Operation, status: str, schema: Json
    ) -> jsonschema_rs.Validator | None:
        key = (str(operation), status)
        if key not in self._validators:
            whole = (
                {**schema, "components": self.document.get("components", {})} if schema else None
            )
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole) if whole else None
        return self._validators[key]


def _takes_json(definition: Json) -> bool:
    return "application/json" in definition.get("requestBody", {}).get("content", {})


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]+\}", template)
    return re.compile("[^/]+".join(re.escape(part) for part in parts))
