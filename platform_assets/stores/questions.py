"""What is asked of many runs again and again, as SQL over the views of analytics.py."""

from __future__ import annotations

from typing import NamedTuple

# The metric of each experiment, as its leaderboard names it, and the scores of each trial in it.
_SCORED = """
WITH scored AS (
    SELECT m.*, board.metric,
        CASE board.metric WHEN 'top1' THEN m.val_top1 WHEN 'macro_f1' THEN m.val_macro_f1
            WHEN 'balanced_accuracy' THEN m.val_balanced_accuracy END AS val,
        CASE board.metric WHEN 'top1' THEN m.test_top1 WHEN 'macro_f1' THEN m.test_macro_f1
            WHEN 'balanced_accuracy' THEN m.test_balanced_accuracy END AS test
    FROM metrics m
    JOIN (SELECT DISTINCT dataset, experiment, metric FROM leaderboard) board USING (dataset, experiment)
)"""
# What a leaderboard asks to be equal beside the images (comparability.py).
_COMPARED = "dataset_version, label_map_checksum, protocol, metric_code"


class Question(NamedTuple):
    """A question in words, and the SELECT that answers it."""

    text: str
    sql: str


QUESTIONS = {
    "best": Question(
        "The best variant of each dataset, by its mean val metric over seeds. Variants are compared where a leaderboard would "
        "rank them: metric, dataset version, label map, preprocessing, code of the metrics, and the images of val and test "
        "are the same; what differs in them is another row.",
        _SCORED
        + f""", variants AS (
    SELECT dataset, experiment, metric, variant, count(*) AS seeds, avg(val) AS val_mean, avg(test) AS test_mean,
        {_COMPARED}, list(DISTINCT val_ids_sha256 || test_ids_sha256 ORDER BY val_ids_sha256 || test_ids_sha256) AS images,
        min(test_images) AS test_images
    FROM scored GROUP BY dataset, experiment, metric, variant, {_COMPARED}
)
SELECT dataset, metric, arg_max(experiment, val_mean) AS experiment, arg_max(variant, val_mean) AS variant,
    max(val_mean) AS val_mean, arg_max(test_mean, val_mean) AS test_mean, arg_max(seeds, val_mean) AS seeds,
    count(*) AS variants, min(test_images) AS test_images
FROM variants GROUP BY dataset, metric, {_COMPARED}, images ORDER BY dataset, metric, val_mean DESC
""",
    ),
    "seed-spread": Question(
        "How far the seeds of a variant lie apart on test: mean, standard deviation, range and each value, the widest first.",
        _SCORED
        + """
SELECT dataset, experiment, variant, metric, count(*) AS seeds, avg(test) AS test_mean, stddev_samp(test) AS test_std,
    max(test) - min(test) AS test_range, list(round(test, 4) ORDER BY seed) AS each_seed
FROM scored GROUP BY dataset, experiment, variant, metric HAVING count(*) > 1
ORDER BY test_std DESC, dataset, experiment, variant
""",
    ),
    "cost-per-point": Question(
        "Seconds of fitting for a point (0.01 of the metric on test), and for each point above the cheapest variant of the "
        "same experiment; empty where nothing is gained. Embedding, which all heads share, is not in it.",
        _SCORED
        + """, variants AS (
    SELECT dataset, experiment, variant, metric, avg(train_seconds) AS seconds, 100 * avg(test) AS points
    FROM scored GROUP BY dataset, experiment, variant, metric
), beside AS (
    SELECT *, first(variant) OVER cheapest AS cheapest, seconds - first(seconds) OVER cheapest AS more_seconds,
        points - first(points) OVER cheapest AS more_points
    FROM variants WINDOW cheapest AS (PARTITION BY dataset, experiment ORDER BY seconds, variant
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
)
SELECT dataset, experiment, variant, metric, seconds, points, seconds / nullif(points, 0) AS seconds_per_point, cheapest,
    more_points, CASE WHEN more_points > 0 THEN more_seconds / more_points END AS seconds_per_point_gained
FROM beside ORDER BY dataset, experiment, seconds, variant
""",
    ),
    "regressions": Question(
        "Trials whose newest finished run of the last seven days is worse on test than the newest before that, by the metric "
        "of their experiment, and whether their data or config changed in between.",
        """
WITH finished AS (
    SELECT dataset, experiment, trial, started, data_version, config_hash, checkpoint_id, params['metric'] AS metric,
        metrics['test_' || params['metric']] AS test, started >= now()::TIMESTAMP - INTERVAL 7 DAYS AS is_new
    FROM runs WHERE status = 'FINISHED' AND asset LIKE '%/checkpoint'
), newest AS (
    SELECT dataset, experiment, trial, is_new, arg_max(finished, started) AS run
    FROM finished WHERE test IS NOT NULL GROUP BY dataset, experiment, trial, is_new
)
SELECT old.dataset, old.experiment, old.trial, new.run.metric AS metric, old.run.test AS before, new.run.test AS now,
    new.run.test - old.run.test AS change, old.run.data_version <> new.run.data_version AS data_changed,
    old.run.config_hash <> new.run.config_hash AS config_changed, old.run.started AS before_at, new.run.started AS now_at,
    new.run.checkpoint_id AS checkpoint_id
FROM newest old JOIN newest new ON (old.dataset, old.experiment, old.trial) = (new.dataset, new.experiment, new.trial)
WHERE new.is_new AND NOT old.is_new AND old.run.metric = new.run.metric AND new.run.test < old.run.test
ORDER BY change
""",
    ),
}
