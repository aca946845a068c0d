"""Forms read as they arrive: the model is found wherever it stands, and what two readers could take differently is refused."""

from __future__ import annotations

import random

import pytest

from budgateway.errors import BadRequest
from budgateway.wire.multipart import MAX_HEAD_BYTES, MAX_MODEL_BYTES, FormReader, boundary_of

KIND = "multipart/form-data; boundary=b0undary"
FILE_HEAD = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'
DISPOSITION = b'Content-Disposition: form-data; name="model"'


def part(head: bytes, value: bytes = b"m") -> bytes:
    return b"--b0undary\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


FIELD = part(DISPOSITION)
FILE = part(FILE_HEAD, b"RIFF\r\n\0" * 50)
END = b"--b0undary--\r\n"


def model_of(body: bytes, size: int = 1 << 20, kind: str = KIND) -> str | None:
    reader = FormReader(kind)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    reader.finish()
    return reader.model if reader.has_model else None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 61, 1000])
def test_the_model_is_found_in_any_order_and_however_the_form_is_cut(size: int) -> None:
    prompt = part(b'content-disposition: form-data; name="prompt"', b"hello")
    for body in (FIELD + FILE, FILE + FIELD, FILE + prompt + FIELD + FILE, prompt + FIELD):
        assert model_of(body + END, size) == "m"
        assert model_of(body + END[:-2], size) == "m"
    assert model_of(FILE + prompt + END, size) is None
    assert model_of(part(DISPOSITION, b"") + END, size) == ""


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data; name=model",  # .NET
        b'content-disposition:form-data;name="model"',
        b'CONTENT-DISPOSITION: FORM-DATA; NAME="model"',
        DISPOSITION + b"\r\nContent-Type: text/plain; charset=utf-8",
        DISPOSITION + b'\r\nContent-Type: text/plain;charset="UTF-8"\r\nContent-Length: 1',
        DISPOSITION + b"\r\nContent-Transfer-Encoding: 8bit\r\nX-Y: z",
    ],
)
def test_every_spelling_of_real_clients_is_read(head: bytes) -> None:
    assert model_of(part(head) + END) == "m"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav",  # .NET
        b'Content-Disposition: form-data; name="file"; filename="C:\\fake\\a.wav"',
        'Content-Disposition: form-data; name="file"; filename="\u65e5\u672c.wav"'.encode(),
        b'Content-Disposition: form-data; name="file"; filename="a\\\\"',
        b'Content-Disposition: form-data; name="models"',
        b'Content-Disposition: form-data; name="my model"',
        b'Content-Disposition: form-data; name="timestamp_granularities[]"',
        b'Content-Disposition: form-data; name="file"; filename="model"',
    ],
)
def test_other_parts_pass(head: bytes) -> None:
    assert model_of(part(head) + FIELD + END) == "m"


@pytest.mark.parametrize(
    "head",
    [
        DISPOSITION,
        b"Content-Disposition: form-data; name*=utf-8''model",
        b"Content-Disposition: form-data; name*=utf-8'en'%6dodel",
        b'Content-Disposition: form-data; name*0="mod"; name*1="el"',
        b"Content-Disposition: form-data; name*0*=utf-8''mod; name*1=el",
        b"Content-Disposition: form-data; name=\"x\"; name*=utf-8''model",
        b'Content-Disposition: form-data; name="x"; name="model"',
        b'Content-Disposition: form-data; name="file"; NAME="model"',
        b'Content-Disposition: form-data; name="Model"',
        b'Content-Disposition: form-data; name="%6dodel"',
        b'Content-Disposition: form-data; name="model[]"',
        b'Content-Disposition: form-data; name=" model"',
        b'Content-Disposition: form-data; name="mo\\del"',
        b'Content-Disposition: form-data; name="=?utf-8?q?model?="',
        b'Content-Disposition: form-data; filename="a\\"; name="model"',
        b'Content-Disposition: form-data; name="x"; filename="a; name=model"',
        b'Content-Disposition: form-data; name = "model"',
        b'Content-Disposition: form-data;\r\n name="model"',
        b'Content-Disposition: form-data; name="model";',
        b"Content-Disposition: form-data; name='model'",
        b'Content-Disposition: attachment; name="model"',
        b'Content-Disposition: form-data; name="model"; filename="x"',
        b'Content-Disposition: form-data; name="_charset_"',
        b'Content-Disposition : form-data; name="model"',
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; name=""',
        b"Content-Type: text/plain",
        b'X: y\nContent-Disposition: form-data; name="model"',
        b'X: y\rContent-Disposition: form-data; name="model"',
        b'Content-Disposition: form-data; name="x"\r\n' + DISPOSITION,
        DISPOSITION + b"\r\nContent-Type: text/plain; charset=utf-16",
        DISPOSITION + b"\r\nContent-Type: application/json",
        DISPOSITION + b"\r\nContent-Transfer-Encoding: base64",
        DISPOSITION + b"\r\nContent-Transfer-Encoding: quoted-printable",
        DISPOSITION + b"\r\nContent-Length: 7",
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: multipart/mixed; boundary=x',
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_names_the_model_in_another_way_is_refused(head: bytes, size: int) -> None:
    """In front of the field, behind it, and behind a file; alone, too, but for the field itself."""
    for body in (part(head, b"x") + FIELD, FIELD + part(head, b"x"), FILE + FIELD + FILE + part(head, b"x")):
        with pytest.raises(BadRequest):
            model_of(body + END, size)
    if head != DISPOSITION:
        with pytest.raises(BadRequest):
            model_of(part(head, b"x") + END, size)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FIELD,
        FIELD[:-4],
        b'{"model":"dear"}\r\n' + FIELD + END,
        b"\r\n" + FIELD + END,
        b"preamble\r\n" + FIELD + END,
        FIELD.replace(b"\r\n", b"\n") + END,
        FIELD + END + FIELD + END,
        FIELD + END + b"more",
        FIELD + b"--b0undary \r\n" + FIELD[12:] + END,
        FILE.replace(b"RIFF\r\n", b"\n--b0undary\n", 1) + FIELD + END,
        FILE.replace(b"RIFF\r\n", b"\r--b0undary\r", 1) + FIELD + END,
        FILE.replace(b"RIFF\r\n", b"\r\n--b0undaryX\r\n", 1) + FIELD + END,
        FILE.replace(b"RIFF\r\n", b"\r\n--b0undary-\r\n", 1) + FIELD + END,
        part(FILE_HEAD + b"\r\n\r\n--b0undary") + FIELD + END,
        b"--b0undary\r\n\r\nno head\r\n" + FIELD + END,
        part(DISPOSITION, b"a\r\nb") + END,
        part(DISPOSITION, b"a\0b") + END,
        part(DISPOSITION, b"\xff") + END,
        part(DISPOSITION, b"m" * (MAX_MODEL_BYTES + 1)) + END,
        part(DISPOSITION, b"m" * 100_000) + END,
        part(b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n" + DISPOSITION) + END,
    ],
    ids=range(22),
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_form_that_no_client_writes_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(BadRequest):
        model_of(body, size)


def test_text_in_a_file_is_no_field() -> None:
    inside = FIELD.replace(b"b0undary", b"other") + b"x--b0undary\r\n" + DISPOSITION + b"\r\n\r\nn\r\n"
    assert model_of(part(FILE_HEAD, inside) + FIELD + END, 5) == "m"


def test_nothing_of_a_file_is_kept() -> None:
    reader = FormReader(KIND)
    reader.feed(FILE[:-2])
    noise = random.Random(1).randbytes(1 << 16).replace(b"--b0", b"")
    for _ in range(64):
        reader.feed(noise)
        assert len(reader._rest) < 64
    reader.feed(b"\r\n" + FIELD + END)
    reader.finish()
    assert reader.model == "m"


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ('multipart/form-data;boundary="a=b:c"', "a=b:c"),
        (
            "Multipart/Form-Data; charset=UTF-8; Boundary=----WebKitFormBoundary7MA4YWxk",
            "----WebKitFormBoundary7MA4YWxk",
        ),
    ],
)
def test_the_boundary_is_read(kind: str, boundary: str) -> None:
    assert boundary_of(kind) == boundary


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data; boundary*0=a; boundary*1=b",
        "multipart/form-data; boundary=a b",
        'multipart/form-data; boundary="a b"',
        'multipart/form-data; boundary="a\\b"',
        "multipart/form-data; boundary=a(b)",
        "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=a; charset=utf-16",
        "multipart/form-data; x; boundary=a",
        "multipart/form-data; boundary = a",
    ],
)
def test_another_boundary_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(kind)
