"""The URLs by which a Redis is told."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from shoal import ProducerSettings, SettingsError
from shoal.control import client_app
from shoal.redis_url import Sentinels, tls_options
from shoal_worker.broker import configuration


def test_a_sentinel_url_in_its_parts() -> None:
    known = Sentinels.of("sentinel://ann:p%40ss@one:26379,two:26380,three/the%20fish/3")
    assert known.nodes == (("one", 26379), ("two", 26380), ("three", 26379))
    assert (known.master, known.db, known.username, known.password) == ("the fish", 3, "ann", "p@ss")
    assert known.kombu_url() == (
        "sentinel://ann:p%40ss@one:26379/3;sentinel://ann:p%40ss@two:26380/3;sentinel://ann:p%40ss@three:26379/3"
    )
    assert "p@ss" not in repr(known)
    assert "p%40ss" not in repr(known)


def test_database_and_login_may_be_left_out() -> None:
    known = Sentinels.of("sentinel://[::1]:26379/fish")
    assert (known.nodes, known.master, known.db) == ((("[::1]", 26379),), "fish", 0)
    assert known.kombu_url("other") == "other://[::1]:26379/0"


@pytest.mark.parametrize(
    "url", ["sentinel://one:26379", "sentinel:///fish", "sentinel://one:x/fish", "sentinel://:hidden@one/fish/zero"]
)
def test_a_wrong_one_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="SHOAL_REDIS_URL: must be a URL such as sentinel://host1") as said:
        ProducerSettings.load(redis_url=url)
    assert "hidden" not in str(said.value)


def test_the_worker_goes_through_our_own_channel_whatever_the_form() -> None:
    assert configuration("redis://one/0", 60)["broker_url"] == "shoal://one/0"
    assert configuration("rediss://one/0", 60)["broker_use_ssl"]
    found = configuration("sentinel://one,two/fish/0", 60)
    assert found["broker_url"] == "shoal-sentinel://one:26379/0;shoal-sentinel://two:26379/0"
    assert found["broker_transport_options"]["master_name"] == "fish"


def test_what_a_url_says_of_certificates_goes_to_everybody_who_connects(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    url = f"rediss://ann:pw@one:6380/2?ssl_ca_certs={authority}&ssl_check_hostname=false"
    verified = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(authority), "ssl_check_hostname": False}
    assert tls_options(url) == verified
    worker = configuration(url, 60)
    assert (worker["broker_url"], worker["broker_use_ssl"]) == ("shoal://ann:pw@one:6380/2", verified)
    with client_app(SecretStr(url)) as app:
        assert (app.conf.broker_url, app.conf.broker_use_ssl) == ("rediss://ann:pw@one:6380/2", verified)


def test_certificates_are_verified_unless_a_url_says_otherwise() -> None:
    assert tls_options("redis://one") is None
    assert tls_options("rediss://one") == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    none = {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}
    assert tls_options("rediss://one?ssl_cert_reqs=none") == none
    with client_app(SecretStr("rediss://one")) as app:
        assert app.conf.broker_use_ssl["ssl_cert_reqs"] == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("rediss://:hidden@one?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs: no file /nowhere/ca.pem"),
        (
            "rediss://:hidden@one?ssl_cert_reqs=perhaps",
            "takes no such ssl_cert_reqs; a rediss:// URL knows ssl_ca_certs",
        ),
        ("rediss://:hidden@one?timeout=1", "takes no such timeout"),
        ("redis://:hidden@one?ssl_ca_certs=/nowhere", "takes no ssl_ca_certs: only a rediss:// URL has options"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix_and_without_the_password(query: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        ProducerSettings.load(redis_url=query)
    assert f"SHOAL_REDIS_URL: {said}" in str(error.value)
    assert "hidden" not in str(error.value)
