"""The DuckDB store: schema.sql and views.sql say what is in it."""
