"""Which HTTP requests open a WebSocket, and what the others are told."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trunkline.door import WebSocketOffer
from trunkline.errors import RemoteProtocolError
from trunkline.net.websocket.greeting import MAX_REQUEST_BYTES, Greeting, Policy

OFFER = WebSocketOffer("/mqtt", ("mqtt", "old"))
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: broker:8083\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: other, mqtt\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
EXTERNAL = "192.0.2.1"


def greet(request: bytes, *, origins: list[str] | None = None, local: str = EXTERNAL) -> tuple[bytes, bytes]:
    answer = Greeting(Policy(OFFER, origins or []), local).receive_data(request)
    assert answer is not None
    return answer


def status(request: bytes, *, origins: list[str] | None = None, local: str = EXTERNAL) -> int:
    try:
        answer, _ = greet(request, origins=origins, local=local)
    except RemoteProtocolError as error:
        answer = error.details["response"]
    return int(answer.split()[1])


def with_header(line: bytes) -> bytes:
    return REQUEST.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")


def test_the_answer_proves_that_the_key_was_read() -> None:
    """The example of RFC 6455, 1.3."""
    answer, rest = greet(REQUEST + b"behind")
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"\r\nSec-WebSocket-Protocol: mqtt\r\n" in answer
    assert rest == b"behind"


def test_a_request_that_comes_byte_by_byte() -> None:
    greeting = Greeting(Policy(OFFER), EXTERNAL)
    answers = [greeting.receive_data(REQUEST[at : at + 1]) for at in range(len(REQUEST))]
    assert answers[:-1] == [None] * (len(REQUEST) - 1)
    assert answers[-1] == greet(REQUEST)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/mqtt ", b"/mqtt?token=1 "),
        (b"Upgrade: websocket", b"upgrade: WebSocket"),
        (b"keep-alive, Upgrade", b"upgrade"),
        (b"/mqtt", b"/"),
        (b"/mqtt", b"/mqtt/"),
        (b"/mqtt", b"/?user=1"),
        (b"other, mqtt", b"old"),
        (b"Protocol: other, mqtt", b"Protocol: other\r\nSec-WebSocket-Protocol: mqtt"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
    ],
)
def test_what_is_accepted_too(old: bytes, new: bytes) -> None:
    answer, _ = greet(REQUEST.replace(old, new, 1))
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"Extensions" not in answer


@pytest.mark.parametrize(
    ("request_", "expected", "said"),
    [
        (REQUEST.replace(b"/mqtt", b"/other"), 404, b"the WebSocket is at /mqtt"),
        (REQUEST.replace(b"GET", b"POST"), 405, b"Allow: GET\r\n"),
        (b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", 426, b"Upgrade: websocket\r\n"),
        (REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426, b"Upgrade: websocket\r\n"),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, b"needs HTTP/1.1"),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), 426, b"Sec-WebSocket-Version: 13\r\n"),
        (REQUEST.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426, b"Sec-WebSocket-Version: 13\r\n"),
        (REQUEST.replace(b"ub25jZQ==", b""), 400, b"Sec-WebSocket-Key"),
        (REQUEST.replace(b"dGhl", b"d?hl"), 400, b"Sec-WebSocket-Key"),
        (with_header(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, b"Sec-WebSocket-Key"),
        (REQUEST.replace(b"other, mqtt", b"other"), 400, b"spoken here: mqtt, old"),
        (REQUEST.replace(b"Sec-WebSocket-Protocol: other, mqtt\r\n", b""), 400, b"spoken here: mqtt, old"),
        (REQUEST.replace(b"Host: broker:8083\r\n", b""), 400, b"no HTTP request"),
        (with_header(b"Host: another"), 400, b"no HTTP request"),
        (with_header(b"no colon"), 400, b"no HTTP request"),
        (with_header(b"Transfer-Encoding: strange"), 501, b"no HTTP request"),
        (REQUEST[:-2] + b"Cookie: " + b"a" * MAX_REQUEST_BYTES, 431, b"no HTTP request"),
        (b"GET /" + b"a" * MAX_REQUEST_BYTES, 431, b"no HTTP request"),
        (b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc\r\n\r\n", 400, b"no HTTP request"),  # CONNECT, without WebSocket
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400, b"no HTTP request"),  # TLS
    ],
)
def test_what_is_refused(request_: bytes, expected: int, said: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^WebSocket: {expected}: ") as caught:
        greet(request_)
    response: bytes = caught.value.details["response"]
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % expected)
    assert f"Content-Length: {len(body)}".encode() in head
    assert said in response


@pytest.mark.parametrize(
    ("origin", "local", "expected"),
    [
        (b"http://broker:8083", EXTERNAL, 101),
        (b"https://BROKER:8083", EXTERNAL, 101),  # what paho says, whatever its own scheme
        (b"http://broker", EXTERNAL, 403),
        (b"http://elsewhere:8083", EXTERNAL, 403),
        (b"null", EXTERNAL, 403),
        (b"http://[broken", EXTERNAL, 403),
        (b"https://dash.example", EXTERNAL, 101),
        (b"https://dash.example:444", EXTERNAL, 403),
        (b"http://broker:8083", "127.0.0.1", 403),  # a page whose name was made to lead here
    ],
)
def test_origins_of_web_pages(origin: bytes, local: str, expected: int) -> None:
    assert status(with_header(b"Origin: " + origin), origins=["https://Dash.example/"], local=local) == expected


@pytest.mark.parametrize("host", [b"127.0.0.1:8083", b"localhost:8083", b"[::1]:8083"])
def test_pages_of_this_machine_may_connect_to_it(host: bytes) -> None:
    request = with_header(b"Origin: http://" + host).replace(b"broker:8083", host, 1)
    assert status(request, local="127.0.0.1") == 101


def test_every_origin_may_be_allowed() -> None:
    assert status(with_header(b"Origin: http://elsewhere"), origins=["*"]) == 101


def test_two_origins_are_none() -> None:
    both = with_header(b"Origin: https://dash.example\r\nOrigin: https://elsewhere")
    assert status(both, origins=["https://dash.example"]) == 403


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.integers(0, len(REQUEST)), st.integers(0, len(REQUEST)), st.binary(max_size=30))
def test_any_request_gets_an_answer(begin: int, end: int, instead: bytes) -> None:
    """A WebSocket, or what was wrong, or nothing yet; never another exception."""
    greeting = Greeting(Policy(OFFER), EXTERNAL)
    try:
        greeting.receive_data(REQUEST[:begin] + instead + REQUEST[end:])
    except RemoteProtocolError as error:
        response = error.details["response"]
    else:
        response = b"HTTP/1.1 "
    assert response.startswith(b"HTTP/1.1 ")
