"""The edges: one plain class per outside tool, speaking our records. Loads no dagster."""
