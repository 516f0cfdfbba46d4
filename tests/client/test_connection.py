"""Proxies of the environment: a server on loopback is asked directly, others as the environment says."""

import certifi
import pytest

from coldstart.client import Client
from coldstart.client.connection import proxy_options

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    def set_variables(**values: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), value)

    return set_variables


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "http://127.9.0.1"]
)
def test_loopback_is_asked_directly(environment, url: str) -> None:
    environment(http_proxy="http://10.0.0.1:3128", all_proxy="socks5://10.0.0.1:1080", no_proxy="fe80::/10")
    options = proxy_options(url)
    assert options["trust_env"] is False
    assert "proxy" not in options
    Client(url).close()


@pytest.mark.parametrize(
    ("values", "url", "proxy"),
    [
        ({"http_proxy": "http://10.0.0.1:3128"}, "http://shop.example", "http://10.0.0.1:3128"),
        ({"http_proxy": "http://10.0.0.1:3128"}, "https://shop.example", None),
        ({"all_proxy": "http://10.0.0.1:3128"}, "https://shop.example", "http://10.0.0.1:3128"),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": "shop.example"}, "http://shop.example", None),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": ".example,::1"}, "http://shop.example", None),
        (
            {"http_proxy": "http://10.0.0.1:3128", "no_proxy": "fe80::/10"},
            "http://shop.example",
            "http://10.0.0.1:3128",
        ),
        ({}, "http://shop.example", None),
    ],
)
def test_other_servers_are_asked_through_the_proxy_of_the_environment(environment, values, url, proxy) -> None:
    environment(**values)
    assert proxy_options(url).get("proxy") == proxy
    Client(url).close()


def test_a_socks_proxy_without_its_package_is_named_with_the_fix(environment) -> None:
    environment(all_proxy="socks5://10.0.0.1:1080")
    with pytest.raises(ValueError, match=r"SOCKS proxy socks5://10.0.0.1:1080 .*httpx\[socks\].*NO_PROXY"):
        Client("http://shop.example")


def test_a_certificate_file_of_the_environment_is_used(environment, monkeypatch: pytest.MonkeyPatch) -> None:
    environment()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert "verify" not in proxy_options("https://shop.example")
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert "verify" in proxy_options("https://shop.example")
