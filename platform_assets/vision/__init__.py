"""The vision layer: pure Python and torch. Loads no dagster, mlflow, dvc or duckdb."""
