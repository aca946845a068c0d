"""`multipart/form-data`, read whole (RFC 7578): the format of uploads for transcriptions and files."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARAMETER = re.compile(rb';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Field:
    """One part of the form; `filename` is empty for plain values."""

    data: bytes
    filename: str = ""

    @property
    def text(self) -> str:
        """The value as text; raises ValueError when it is not UTF-8."""
        return self.data.decode("utf-8")


def fields_of(content_type: str, body: bytes) -> dict[str, Field]:
    """Return the form's fields by name. Raises ValueError when the body is not such a form."""
    kind, _, parameters = content_type.partition(";")
    boundary = re.search(r'boundary="?([^";]+)"?', parameters)
    if kind.strip().lower() != "multipart/form-data" or boundary is None:
        raise ValueError(f"expected multipart/form-data with a boundary, not {content_type!r}")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode("latin-1"))
    if not parts[-1].startswith(b"--"):
        raise ValueError("the form's last boundary is missing")
    fields: dict[str, Field] = {}
    for part in parts[1:-1]:
        head, blank, data = part.partition(b"\r\n\r\n")
        disposition = next(
            (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b""
        )
        names = {key.lower(): value.decode("utf-8") for key, value in _PARAMETER.findall(disposition)}
        if not blank or b"name" not in names:
            raise ValueError("a part of the form has no name")
        fields[names[b"name"]] = Field(data, names.get(b"filename", ""))
    return fields
