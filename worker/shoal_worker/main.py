"""The worker's app, made from the environment: what `celery -A shoal_worker.main` loads."""

from shoal_worker import logs
from shoal_worker.app import connect_process, make_app
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores import migrations

settings = WorkerSettings.load()
logs.configure(settings.log_level)
if settings.in_postgres:
    migrations.check(settings.results)
app = make_app(settings)
connect_process(settings)
