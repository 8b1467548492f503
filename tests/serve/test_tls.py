"""https by certificate files: it answers, and wrong files are one line before anything listens."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coterie.config import ConfigError
from coterie.hosting.host import Host
from coterie.serve.server import make_server
from tests.serve.support import service, serving

FILES = Path(__file__).parent / "certificates"  # of the tests only
CERT, KEY = str(FILES / "cert.pem"), str(FILES / "key.pem")


def test_the_server_speaks_https() -> None:
    with serving(tls_cert=CERT, tls_key=KEY) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=CERT)
        with urllib.request.urlopen(server.url + "/health", context=trust) as answer:
            assert answer.status == 200
        with pytest.raises(OSError):  # a client that does not trust it
            urllib.request.urlopen(server.url + "/health")


def test_one_https_connection_answers_again_and_again() -> None:
    """Also when all that was written has been sent at once, over TLS as well as without it."""
    with serving(tls_cert=CERT, tls_key=KEY) as server:
        trust = ssl.create_default_context(cafile=CERT)
        for _ in range(2):
            connection = http.client.HTTPSConnection(
                "127.0.0.1", urlsplit(server.url).port, context=trust, timeout=5
            )
            for _ in range(4):
                connection.request("GET", "/health")
                assert connection.getresponse().read().startswith(b'{"status":"ok"')
            connection.close()


def test_a_client_that_never_finishes_its_handshake_is_hung_up_on() -> None:
    with serving(tls_cert=CERT, tls_key=KEY, header_timeout=0.2) as server:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
            assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tls_cert": CERT}, "give --tls-cert and --tls-key together"),
        ({"tls_cert": KEY, "tls_key": KEY}, "--tls-cert"),
        ({"tls_cert": "nowhere.pem", "tls_key": KEY}, "No such file"),
    ],
)
def test_wrong_files_are_one_line(files: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make_server(Host.of(service(**files)))
    assert "\n" not in str(caught.value)
