"""The schemas as JSON Schema (draft 2020-12): what they ask for, told beforehand."""

import re
from typing import Any

from marshmallow import fields, missing, validate

from ticketboss.rules import limits, names
from ticketboss.web import schemas

Shape = dict[str, Any]

# What a kind of field looks like in JSON; the nearest in its family counts.
KINDS: dict[type, Shape] = {
    fields.Boolean: {"type": "boolean"},
    fields.Integer: {"type": "integer"},
    fields.String: {"type": "string"},
    fields.UUID: {"type": "string", "format": "uuid"},
    fields.Date: {"type": "string", "format": "date"},
    fields.Raw: {},
    schemas.QueryInteger: {"type": "integer"},
    schemas.Timestamp: {"type": "string", "format": "date-time"},
}
# What can be told of a text's form; the rest is for people to read.
FORMS: dict[Any, Shape] = {
    names.partner_id: {"format": "partner-id", "maxLength": limits.PARTNER_ID_LENGTH},
    names.event_name: {"format": "event-name", "maxLength": limits.EVENT_NAME_LENGTH},
}


def name(schema: schemas.Schema) -> str:
    """Return what a schema is called in the document."""
    return type(schema).__name__.removesuffix("Answer")


def reference(schema: schemas.Schema) -> Shape:
    return {"$ref": f"#/components/schemas/{name(schema)}"}


def shape(schema: schemas.Schema) -> Shape:
    """Return a schema as JSON Schema."""
    if isinstance(schema, schemas.Answer):
        bound = {field.data_key: field for field in schema.fields.values()}
        required = [key for key in bound if key not in schema.optional]
        closed = {}  # clients bear with members to come
    else:
        bound = {field.data_key or key: field for key, field in schema.load_fields.items()}
        required = [key for key, field in bound.items() if field.required]
        closed = {"additionalProperties": False}
    properties = {key: member(field) for key, field in bound.items()}
    made = {"type": "object", "properties": properties, "required": required, **closed}
    return {key: value for key, value in made.items() if key != "required" or value}


def member(field: fields.Field) -> Shape:
    """Return one member of a schema as JSON Schema."""
    if isinstance(field, fields.Nested):
        return reference(field.schema)
    made: Shape
    if isinstance(field, fields.List):
        made = {"type": "array", "items": member(field.inner)}
    else:
        made = dict(next(KINDS[kind] for kind in type(field).__mro__ if kind in KINDS))
    if isinstance(field, schemas.Text):
        made |= {"minLength": 1, **FORMS[field.form]}
    if isinstance(field, schemas.QueryInteger):
        made |= {"minimum": field.lowest, "maximum": field.highest}
    for validator in field.validators:
        made |= _bound(validator)
    if field.allow_none and "type" in made and field.load_default is missing:
        made["type"] = [made["type"], "null"]
    if field.load_default not in (missing, None):
        made["default"] = field.load_default
    return made


def pattern(regex: re.Pattern[Any]) -> str:
    """Return what `match` is told by in the terms of JSON Schema, which anchors nothing."""
    return "^" + regex.pattern.replace(r"\Z", "$")


def _bound(validator: Any) -> Shape:
    if isinstance(validator, validate.Range):
        return {"minimum": validator.min, "maximum": validator.max}
    if isinstance(validator, validate.Length):
        return {"minItems": validator.min, "maxItems": validator.max}
    if isinstance(validator, validate.OneOf):
        return {"enum": list(validator.choices)}
    assert isinstance(validator, validate.Regexp)
    return {"pattern": pattern(validator.regex)}
