import pytest
from celery import Celery

from shoal_worker.broker import configuration
from shoal_worker.consumer import public


@pytest.mark.parametrize(
    ("url", "others"),
    [
        ("redis://shoal:swordfish@one:6379/0", 0),
        ("sentinel://shoal:swordfish@one:26379,two:26379/fish/0", 1),
        ("amqp://shoal:swordfish@one:5672//;amqp://shoal:swordfish@two:5672//", 1),
    ],
)
def test_of_its_connection_a_worker_tells_the_place_and_no_password(url: str, others: int) -> None:
    with Celery(set_as_current=False) as app:
        app.conf.update(configuration(url, 60.0))
        connection = app.connection_for_read().info()
    assert "swordfish" in str(connection)
    told = public(connection)
    assert "swordfish" not in str(told)
    assert (told["hostname"], told["userid"]) == ("one", "shoal")
    assert sum("two" in other for other in told["alternates"]) == others
