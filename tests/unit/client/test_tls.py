"""Encrypted connections, with a certificate made for the test."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import grpc
import pytest

from spec_cascade_client import Client, Tls, UnavailableError
from tests.unit.client.wire_servers import GrpcServer, HttpServer, Send, chunk

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")

WHOLE = Send(chunk(0, "Die", [1], [0], ["Die"], finish_reason=["stop"]), final=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


@pytest.fixture(params=["https", "grpcs"])
def url(request, certificate):
    key, cert = certificate
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server = HttpServer([WHOLE], context)
        # A client that mistrusts us ends the handshake: nothing to report.
        server.handle_error = lambda *_: None
    else:
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
        server = GrpcServer([WHOLE], credentials)
    port = server.record.url.rpartition(":")[2]
    yield f"{request.param}://localhost:{port}"
    server.stop()


def test_a_server_that_the_authority_vouches_for_is_trusted(url, certificate):
    with Client(url, tls=Tls(ca_file=str(certificate[1]))) as client:
        assert client.generate("Why?").text == "Die"


def test_a_server_that_nobody_vouches_for_is_not(url):
    with Client(url, response_timeout=10) as client, pytest.raises(UnavailableError):
        client.generate("Why?")
