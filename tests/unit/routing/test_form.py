"""The model of a multipart form: found, and found to be the only one, however the form is cut."""

from __future__ import annotations

import pytest

from budgateway.errors import BadRequest
from budgateway.routing.form import MAX_LINE_BYTES, look_on, model_of, rest_of


def part(disposition: str, value: str = "m", *lines: str) -> bytes:
    return "\r\n".join(["--b", *lines, f"Content-Disposition: {disposition}", "", value, ""]).encode()


PLAIN = part('form-data; name="model"')
FILE = part('form-data; name="file"; filename="a.wav"', "RIFF" * 50, "Content-Type: audio/wav")
# As servers read it: python-multipart, the email package, busboy, Go.
SPELLINGS = [
    'form-data; name="model"',
    "form-data; name=model",
    'form-data;name="model"',
    'form-data; x=y; name="model"',
    'FORM-DATA; NAME="model"',
    'form-data; name = "model"',
    'form-data; name="mo\\del"',
    "form-data; name*=utf-8''model",
    "form-data; name*=utf-8'en'%6dodel",
    'form-data;\r\n name="model"',
    'form-data; name="model"; filename="x"',
]
OTHERS = [
    'form-data; name="models"',
    'form-data; name="a model"',
    'form-data; filename="name=model"',
    "form-data; name=remodel",
    "form-data; name=models",
    'form-data; filename="model"',
]


def pieces_pass(body: bytes, size: int, begin: bytes) -> bool:
    kept = rest_of(begin)
    try:
        for at in range(0, len(body), size):
            kept = look_on(kept, body[at : at + size])
    except BadRequest:
        return False
    return True


def test_the_field_is_found() -> None:
    assert model_of(PLAIN + FILE) == "m"
    assert model_of(FILE + part('form-data; name="model"', "n", "X-Y: z")) == "n"
    assert model_of(part('form-data; name="model"\r\nContent-Type: text/plain', "n")) == "n"
    assert model_of(FILE) is None
    assert model_of(b"") is None


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_second_one_is_refused_however_it_is_spelled(spelling: str) -> None:
    for body in (PLAIN + part(spelling), part(spelling) + PLAIN, PLAIN + FILE + part(spelling, "n", "X-Y: z")):
        with pytest.raises(BadRequest, match="twice"):
            model_of(body)
    if spelling != SPELLINGS[0] and "FORM" not in spelling and spelling != SPELLINGS[2]:
        with pytest.raises(BadRequest, match="cannot be read"):
            model_of(part(spelling))


def test_one_in_front_of_every_boundary_cannot_be_read() -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        model_of(PLAIN.partition(b"\r\n")[2])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_later_one_is_refused_however_the_form_is_cut(spelling: str, size: int) -> None:
    late = FILE + part(spelling) + b"--b--\r\n"
    assert not pieces_pass(late, size, PLAIN)
    # The cut may be where the form was held back.
    for at in range(0, len(late), 5):
        try:
            model_of(PLAIN + late[:at])
        except BadRequest:
            continue
        assert not pieces_pass(late[at:], size, PLAIN + late[:at]), at


@pytest.mark.parametrize("spelling", OTHERS)
def test_other_fields_pass(spelling: str) -> None:
    assert model_of(PLAIN + part(spelling)) == "m"
    for size in (1, 7, 1000):
        assert pieces_pass(FILE + part(spelling) + b"content-disposition: name=model" + FILE, size, PLAIN)


def test_a_line_without_an_end_is_refused() -> None:
    line = b"\r\nContent-Disposition: form-data; x=" + b"y" * MAX_LINE_BYTES
    assert not pieces_pass(line, 500, PLAIN)
    assert pieces_pass(b"y" * 100_000, 500, PLAIN)
