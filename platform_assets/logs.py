"""The console log of a run: one short line for what a person follows, Dagster's own events only when asked for."""

from __future__ import annotations

import logging
import sys

import dagster as dg


class _ShortLines(logging.Formatter):
    """`12:03:41 elpv__probes__trials: message`; failures keep their error text."""

    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        time = self.formatTime(record, "%H:%M:%S")
        step = f" {meta['step_key']}:" if meta.get("step_key") else ""
        level = f" {record.levelname}" if record.levelno > logging.INFO else ""
        message = meta.get("orig_message") or record.getMessage()
        failed = meta.get("dagster_event")
        data = getattr(failed, "event_specific_data", None)
        error = getattr(data, "error", None)
        return f"{time}{level}{step} {message}" + (f"\n{error.to_string()}" if error else "")


@dg.logger(
    {"log_level": dg.Field(str, default_value="INFO", description="DEBUG also shows Dagster's own events")},
    description="One line for each message of a step; log_level DEBUG adds Dagster's own events.",
)
def console(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("kestrel")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ShortLines())
    logger.addHandler(handler)
    logger.setLevel(context.logger_config["log_level"].upper())
    return logger
