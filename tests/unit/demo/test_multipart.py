"""Forms as clients upload them."""

from __future__ import annotations

import pytest

from budgateway.demo.multipart import Field, fields_of

KIND = 'multipart/form-data; boundary="xx"'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--xx\r\n" + part + b"\r\n" for part in parts) + b"--xx--\r\n"


def test_a_file_keeps_its_bytes_and_its_name() -> None:
    data = b"\r\n--x\x00\xff\r\n\r\n"
    body = form(
        b'Content-Disposition: form-data; name="model"\r\n\r\ndemo',
        b'Content-Disposition: form-data; name="file"; filename="a \xc3\xa9.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        + data,
    )
    assert fields_of(KIND, body) == {"model": Field(b"demo"), "file": Field(data, "a é.wav")}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", form()),
        ("multipart/form-data", form()),
        (KIND, b"--xx\r\n"),
        (KIND, form(b"no name here\r\n\r\nvalue")),
    ],
)
def test_what_is_not_a_form_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(ValueError):
        fields_of(kind, body)
