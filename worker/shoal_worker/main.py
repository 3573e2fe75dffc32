"""The worker's app, made from the environment: what `celery -A shoal_worker.main` loads."""

from shoal_worker import guard, logs, sentry, tracing
from shoal_worker.app import connect_process, make_app
from shoal_worker.settings import WorkerSettings

settings = WorkerSettings.load()
tracing.configure()
logs.configure(settings.log_level, settings.log_format)
sentry.configure(settings)
guard.check(settings)
app = make_app(settings)
connect_process(settings)
