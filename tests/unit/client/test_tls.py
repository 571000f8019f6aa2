"""Encrypted connections, with a certificate made for the test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from contextlib import contextmanager

import grpc
import pytest
import typer
from typer.testing import CliRunner

from spec_cascade_client import NoConnectionError, Retry, Tls, UnavailableError
from spec_cascade_client.canary import CanaryError, canary, main
from spec_cascade_client.commands import register
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


@contextmanager
def serving(scheme, certificate, *, demanding):
    """A server with the certificate; a demanding one trusts no client without it."""
    key, cert = certificate
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        if demanding:
            context.load_verify_locations(cert)
            context.verify_mode = ssl.CERT_REQUIRED
        server = HttpServer([WHOLE], tls=context)
        # A client that mistrusts us, or that we mistrust, ends the handshake: nothing to report.
        server.handle_error = lambda *_: None
    else:
        pair, root = [(key.read_bytes(), cert.read_bytes())], cert.read_bytes() if demanding else None
        server = GrpcServer([WHOLE], grpc.ssl_server_credentials(pair, root, require_client_auth=demanding))
    port = server.record.url.rpartition(":")[2]
    yield f"{scheme}://localhost:{port}"
    server.stop()


@pytest.fixture(params=["https", "grpcs"])
def url(request, certificate):
    with serving(request.param, certificate, demanding=False) as url:
        yield url


@pytest.fixture(params=["https", "grpcs"])
def demanding_url(request, certificate):
    with serving(request.param, certificate, demanding=True) as url:
        yield url


def test_a_server_that_the_authority_vouches_for_is_trusted(url, certificate, connect):
    with connect(url, tls=Tls(ca_file=str(certificate[1]))) as client:
        assert client.generate("Why?").text == "Die"


def test_a_server_that_nobody_vouches_for_is_not(url, connect):
    once = Retry(attempts=1)
    with (
        connect(url, response_timeout=10, retry=once) as client,
        pytest.raises(NoConnectionError, match=r"self.signed certif"),
    ):
        client.generate("Why?")


@pytest.mark.parametrize("url", ["https"], indirect=True)
def test_an_insecure_client_trusts_whoever_answers(url, connect):
    with connect(url, tls=Tls(insecure=True)) as client:
        assert client.generate("Why?").text == "Die"


def test_a_server_that_asks_for_a_certificate_gets_the_clients(demanding_url, certificate, connect):
    key, cert = map(str, certificate)
    with connect(demanding_url, tls=Tls(ca_file=cert, certificate_file=cert, key_file=key)) as client:
        assert client.generate("Why?").text == "Die"
    bare = Tls(ca_file=cert)
    with connect(demanding_url, tls=bare, retry=Retry(attempts=1)) as client, pytest.raises(UnavailableError):
        client.generate("Why?")


def invoke(*arguments):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, arguments, input="Why?")


@pytest.mark.parametrize("demanding_url", ["https"], indirect=True)
def test_the_canary_takes_the_certificates_that_the_clients_take(demanding_url, certificate, capsys):
    key, cert = map(str, certificate)
    assert canary(demanding_url, tls=Tls(ca_file=cert, certificate_file=cert, key_file=key)).startswith("ok")
    files = ["--ca-file", cert, "--certificate-file", cert, "--key-file", key]
    assert main([demanding_url, *files]) == 0
    assert invoke("canary", demanding_url, *files).exit_code == 0
    with pytest.raises(CanaryError, match=r"self.signed certif"):
        canary(demanding_url)
    assert main([demanding_url, *files[:4]]) == 1
    assert "must be given together" in capsys.readouterr().err


def test_the_commands_take_them_too(demanding_url, certificate):
    key, cert = map(str, certificate)
    files = ["--url", demanding_url, "--ca-file", cert, "--certificate-file", cert, "--key-file", key]
    assert invoke("generate", "Why?", *files).stdout == "Die\n"
    assert invoke("chat", *files).stdout == "Die\n"
