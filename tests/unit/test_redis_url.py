"""The URLs by which a Redis is told."""

import pytest

from shoal import ProducerSettings, SettingsError
from shoal.redis_url import Sentinels
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
