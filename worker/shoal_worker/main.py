"""The worker's app, made from the environment: what `celery -A shoal_worker.main` loads."""

from shoal_worker import logs, sentry, tracing
from shoal_worker.app import connect_process, make_app
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores import migrations

settings = WorkerSettings.load()
tracing.configure()
logs.configure(settings.log_level, settings.log_format)
sentry.configure(settings)
if settings.in_postgres:
    migrations.check(settings.results)
app = make_app(settings)
connect_process(settings)
