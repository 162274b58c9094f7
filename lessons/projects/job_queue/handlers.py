"""The work of each type of job. Yours go into a module of your own: ``work --handlers my_handlers``.

A handler gets the job. If it returns, the job is done. If it raises PermanentError, the job is a dead letter at once;
if it raises anything else, it is tried again. It may be called twice for one job, so make its effect idempotent: store
the job's id with the effect, and skip what is already stored.
"""

import random
import time
from collections.abc import Callable

from .queue import Job

Handler = Callable[[Job], object]
HANDLERS: dict[str, Handler] = {}


class PermanentError(Exception):
    """Another attempt would fail, too: the address does not exist, the file is not an image."""


def handles(job_type: str) -> Callable[[Handler], Handler]:
    """Declare a function as the work of a type."""

    def declare(function: Handler) -> Handler:
        HANDLERS[job_type] = function
        return function

    return declare


@handles("send_email")
def send_email(job: Job) -> None:
    """Stands in for a mail server, which is away one time in ten."""
    if "@" not in str(job.payload.get("to", "someone@example.com")):
        raise PermanentError(f"{job.payload['to']} is not an address")
    time.sleep(random.uniform(0.02, 0.1))
    if random.random() < 0.1:
        raise ConnectionError("the mail server does not answer")


@handles("resize_image")
def resize_image(job: Job) -> None:
    """Stands in for work of the processor."""
    time.sleep(random.uniform(0.05, 0.2))


@handles("generate_report")
def generate_report(job: Job) -> None:
    """Stands in for a long job. A worker extends its lease while it runs."""
    time.sleep(float(job.payload.get("seconds", 0.5)))
