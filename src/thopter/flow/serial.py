"""How DBOS writes our values: JSON text, never pickles (a pickle dies with the class it names)."""

from __future__ import annotations

import json
from typing import Any

from dbos import Serializer


class JsonText(Serializer):
    """Strings, and argument lists of strings, as JSON; exceptions as their text.

    Only DBOS' own failures reach it as exceptions: ours are recorded as values."""

    def name(self) -> str:
        """Stored with every value; never to be changed."""
        return "thopter_json"

    def serialize(self, data: Any) -> str:
        """Encode a value, an argument list or an exception."""
        if isinstance(data, BaseException):
            return json.dumps({"!": f"{type(data).__name__}: {data}"})
        return json.dumps(data, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        """Decode; an argument list comes back as DBOS wants it, an exception as RuntimeError."""
        value = json.loads(serialized_data)
        if isinstance(value, dict) and "!" in value:
            return RuntimeError(value["!"])
        if isinstance(value, dict) and "args" in value:
            return {"args": tuple(value["args"]), "kwargs": value["kwargs"]}
        return value
