"""The main job over TLS, with a password, and what a certificate that is not valid is told as.

Certificates are made here. The servers from wheels are built without TLS, so a proxy speaks it for them (`proxy.py`).
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme
from pydantic import SecretStr

from conftest import Workers, eventually
from postgres_server import Postgres
from proxy import in_front
from shoal import Classify, ProducerSettings, QueueUnavailable, SettingsError, Shoal
from shoal.control import client_app
from shoal_worker import guard
from shoal_worker.doctor import command
from shoal_worker.doctor.findings import Grade
from shoal_worker.doctor.postgres import look
from shoal_worker.settings import WorkerSettings

LABELS = ("billing", "bug")


def question(number: int = 0) -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}.", labels=LABELS)


class Authority(trustme.CA):
    """One of our own. `folder` has its certificate as `ca.pem`, and that of a stranger as `other.pem`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.cert_pem.write_to_path(str(folder / "ca.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))

    def certify(self, *hosts: str) -> Path:
        """A file with a key and a certificate that is valid for some hosts."""
        file = self.folder / f"{hosts[0]}.pem"
        self.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(authority: Authority, client: "redis.Redis") -> Iterator[str]:
    """Address and login of a Redis that speaks TLS and asks for certificates, without an authority to trust."""
    port = client.connection_pool.connection_kwargs["port"]
    client.acl_setuser("ann", enabled=True, passwords=["+p@ss"], keys=["*"], channels=["*"], commands=["+@all"])
    try:
        with in_front(port, certificate=authority.certify("localhost"), clients=authority.folder / "ca.pem") as front:
            yield f"rediss://ann:p%40ss@localhost:{front}/0"
    finally:
        client.acl_deluser("ann")


def answered(url: str, **more: str) -> None:
    with Shoal(ProducerSettings.load(redis_url=url, **more)) as producer:
        assert producer.enqueue(question()).outcome(30).usage.cost_usd > 0
        several = list(producer.map(question(number) for number in range(1, 60)))
        assert {outcome.result.label for outcome in several} == {"billing"}


def test_the_main_job_over_tls(workers: Workers, secure: str, authority: Authority, tmp_path: Path) -> None:
    url = f"{secure}?ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_certfile={authority.certify('shoal')}"
    workers.start(redis_url=url)
    answered(url)
    with client_app(SecretStr(url)) as app:
        eventually(lambda: app.control.ping(timeout=1), what="an answer to remote control")
    assert b"p@ss" not in workers.log()
    assert b"insecure" not in workers.log()


def test_results_in_a_postgres_that_speaks_tls(
    workers: Workers, valkey: str, postgres: str, authority: Authority, postgres_process: Postgres, tmp_path: Path
) -> None:
    certificate = authority.certify("localhost")
    with in_front(postgres_process.port, certificate=certificate, postgres=True) as front:
        host = f"postgresql://postgres@localhost:{front}/postgres"
        workers.start(result_url=f"{host}?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}")
        answered(valkey, result_url=f"{host}?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}")
        wrong = f"{host}?sslmode=verify-full&sslrootcert={tmp_path / 'other.pem'}"
        said = refused(workers, result_url=wrong)
        assert "Postgres cannot be asked: " in said
        assert "certificate verify failed" in said
        other_host = wrong.replace("localhost", "127.0.0.1").replace("other.pem", "ca.pem")
        assert "127.0.0.1" in refused(workers, result_url=other_host)
        assert "certificate verify failed" in look(SecretStr(wrong)).away
        producer = Shoal(ProducerSettings.load(redis_url=valkey, result_url=wrong))
        with producer, pytest.raises(QueueUnavailable, match="certificate verify failed"):
            producer.enqueue(question())


def refused(workers: Workers, **settings: str) -> str:
    """What a worker says that does not start."""
    environ = {**workers.environ, **{f"SHOAL_{name.upper()}": value for name, value in settings.items()}}
    words = [sys.executable, "-m", "shoal_worker"]
    ended = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("trusted", ["", "?ssl_ca_certs={folder}/other.pem"])
def test_a_certificate_of_an_unknown_authority_is_refused(secure: str, tmp_path: Path, trusted: str) -> None:
    url = secure + trusted.format(folder=tmp_path)
    with pytest.raises(SettingsError, match="the Redis cannot be asked: its certificate is not valid: ") as said:
        guard.check(WorkerSettings.load(redis_url=url))
    assert "ssl_ca_certs=/path/ca.pem" in str(said.value)
    producer = Shoal(ProducerSettings.load(redis_url=url))
    with producer, pytest.raises(QueueUnavailable, match="its certificate is not valid"):
        producer.enqueue(question())
    found = asyncio.run(command.of_redis(WorkerSettings.load(redis_url=url), workers=1))[0]
    assert [(one.check, one.grade) for one in found] == [("redis-away", Grade.FAULT)]


def test_a_certificate_for_another_host_is_refused(authority: Authority, client: "redis.Redis", tmp_path: Path) -> None:
    port = client.connection_pool.connection_kwargs["port"]
    with in_front(port, certificate=authority.certify("redis.example")) as front:
        url = f"rediss://localhost:{front}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        refusing = Shoal(ProducerSettings.load(redis_url=url))
        with refusing, pytest.raises(QueueUnavailable, match="Hostname mismatch"):
            refusing.enqueue(question())
        # Somebody may say that it does not matter; the doctor says that it does.
        answering = f"{url}&ssl_check_hostname=false"
        with Shoal(ProducerSettings.load(redis_url=answering)) as producer:
            assert producer.enqueue(question()).status() == "available"
        for careless in (answering, f"rediss://localhost:{front}/0?ssl_cert_reqs=none"):
            found = asyncio.run(command.of_redis(WorkerSettings.load(redis_url=careless), workers=1))[0]
            assert [one.check for one in found if one.grade == Grade.WARNING] == ["redis-tls"]
