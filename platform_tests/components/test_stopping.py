"""Steps that are told to stop, in a run of Dagster."""

from __future__ import annotations

import os
import signal
import time
import weakref

import dagster as dg

from platform_assets.components.metadata import stops_cleanly


class Forgotten:
    """Something whose end somebody listens to."""


def test_stops_cleanly__an_interrupt_in_a_callback_of_a_weak_reference_ends_the_step() -> None:
    """As those of SQLAlchemy's engines: the step went on, and only a second Ctrl-C ended it."""

    @dg.asset
    def long() -> None:
        forgotten = Forgotten()
        listener = weakref.ref(forgotten, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with stops_cleanly("Nothing was written."):
            del forgotten
            assert listener() is None
            time.sleep(20)

    began = time.monotonic()
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([long], instance=instance, raise_on_error=False)
    assert time.monotonic() - began < 15
    (failed,) = [event for event in run.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    assert "Stopped by request. Nothing was written." in str(failed.step_failure_data.error)
