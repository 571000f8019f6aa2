"""What the client refuses before anything is sent, and how it reads an address."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spec_cascade_client import Client, InvalidRequestError, Options, Tls
from spec_cascade_client.address import Address
from tests.unit.client.wire_servers import Send, chunk


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(max_tokens=2**31), "max_tokens = 2147483648: must be an integer of 32 bits"),
        (Options(max_tokens=1.5), "max_tokens = 1.5"),
        (Options(seed=-1), r"seed = -1: must be an integer in \[0, 2\*\*64\)"),
        (Options(temperature=math.nan), "temperature = nan: must be a finite number"),
        (Options(top_p=1e300), "top_p = 1e\\+300"),
        (Options(temperature="hot"), "temperature = 'hot'"),
        (Options(rule="\ud800"), "deferral_rule = .*lone surrogates"),
        (Options(rule=7), "deferral_rule = 7"),
        (Options(stop=("ok", "\udfff")), "stop_words = "),
        (Options(bad_words=("\udfff",)), "bad_words = "),
        (Options(repetition_penalty=math.inf), "repetition_penalty = inf: must be a finite number"),
        (Options(timeout_ms=0.5), "timeout_ms = 0.5: must be an integer of 32 bits"),
        (Options(stop="ab"), "stop_words = 'ab': must be a tuple of texts"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_value_that_its_tensor_cannot_hold_is_refused_by_name(protocol, options, message):
    with Client(f"{protocol}://127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match=message):
        client.generate("Why?", options)


def test_numbers_of_numpy_are_sent_as_numbers(serve):
    record = serve(Send(chunk(0, "a", [1], [0], ["a"], finish_reason=["stop"]), final=True))
    with Client(record.url) as client:
        client.generate("Why?", Options(max_tokens=np.int64(7), temperature=np.float32(0.5), seed=np.uint64(2**64 - 1)))
    sent = record.requests[0]
    assert [sent[name] for name in ("max_tokens", "temperature", "seed")] == [[7], [0.5], [2**64 - 1]]


def test_messages_without_role_or_content_are_refused():
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match="a role and a content"):
        client.chat([{"role": "user"}])


def test_an_unknown_option_is_refused_by_the_signature():
    with pytest.raises(TypeError, match="tempature"):
        Options(tempature=1.0)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://example.org", Address("grpc", "example.org", 8001, "")),
        ("http://example.org", Address("http", "example.org", 8000, "")),
        ("grpcs://[::1]:9", Address("grpcs", "::1", 9, "")),
        ("https://example.org:443/proxy/", Address("https", "example.org", 443, "/proxy")),
    ],
)
def test_a_url_names_scheme_host_port_and_path(url, address):
    assert Address.parse(url) == address


def test_an_ipv6_host_keeps_its_brackets():
    assert str(Address.parse("grpc://[::1]")) == "grpc://[::1]:8001"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001", "ftp://x", "grpc://", "http://x:99999", "http://x:0", "grpc://x/path", "http://[x",
        "http://a..b", "http://a b", "http://x/a b", "http://x/ä", "http://user:word@x", "http://x?a=1", "http://x#a",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused(url):
    with pytest.raises(InvalidRequestError, match="url = "):
        Client(url)


@pytest.mark.parametrize(
    "headers", [{"key": "a\r\nother: b"}, {"": "a"}, {"key": "ü"}, {"a b": "c"}, {"a:b": "c"}, {"a-Bin": "b"}, {"a": 1}]
)
def test_a_header_that_could_not_be_sent_is_refused(headers):
    with pytest.raises(InvalidRequestError, match="header"):
        Client("grpc://localhost", headers=headers)


def test_grpc_cannot_leave_a_certificate_unchecked():
    with pytest.raises(InvalidRequestError, match="insecure = True: gRPC always checks"):
        Client("grpcs://localhost", tls=Tls(insecure=True))


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_certificate_file_that_is_not_there_is_refused(scheme, tmp_path):
    with pytest.raises(InvalidRequestError, match="cannot read the TLS files"):
        Client(f"{scheme}://localhost", tls=Tls(ca_file=str(tmp_path / "none.pem")))


@pytest.mark.parametrize("files", [{"certificate_file": "cert.pem"}, {"key_file": "key.pem"}])
def test_half_a_pair_of_certificate_and_key_is_refused(files):
    with pytest.raises(InvalidRequestError, match="must be given together"):
        Tls(**files)
