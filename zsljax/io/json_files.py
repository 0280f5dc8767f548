"""JSON files that people may edit: read and checked against a schema."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import jsonschema

from zsljax.errors import ZsljaxError, line_of

# Types of fields.
TEXT, NUMBER, OBJECT = ({"type": name} for name in ("string", "number", "object"))
COUNT = {"type": "integer", "minimum": 0}


def object_of(**fields: Mapping[str, Any]) -> dict[str, Any]:
  """The JSON schema of an object with these fields and any others."""
  return {"type": "object", "properties": fields, "required": list(fields)}


def list_of(items: Mapping[str, Any]) -> dict[str, Any]:
  """The JSON schema of a list."""
  return {"type": "array", "items": items}


def or_none(schema: Mapping[str, Any]) -> dict[str, Any]:
  """The JSON schema of a value that may be null."""
  return {"anyOf": [{"type": "null"}, schema]}


def read_json(path: pathlib.Path, schema: Mapping[str, Any], expected: str) -> Any:
  """Reads a JSON file.

  Args:
    path: the file.
    schema: of its content, by the rules of JSON Schema.
    expected: ends the message.

  Raises:
    ZsljaxError: it is no JSON, or something else than the schema says.
  """
  try:
    content = path.read_text("utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ZsljaxError(
      f"{path}: not readable ({line_of(error)}), expected {expected}"
    ) from error
  return parsed(content, schema, str(path), expected)


def parsed(text: str, schema: Mapping[str, Any], where: str, expected: str) -> Any:
  """Parses JSON; arguments and errors are those of ``read_json``."""
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ZsljaxError(
      f"{where}: not readable as JSON ({line_of(error)}), expected {expected}"
    ) from error
  check_json(value, schema, where, expected)
  return value


def check_json(
  value: Any, schema: Mapping[str, Any], where: str, expected: str
) -> None:
  """Raises a ``ZsljaxError`` that names a field which is not as ``schema`` says."""
  error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
  if error is not None:
    field = ".".join(map(str, error.absolute_path))
    raise ZsljaxError(
      f"{where}{': ' * bool(field)}{field[:80]}: {line_of(error.message)}, expected "
      f"{expected}"
    )
