"""The database of the server: schema, migrations, and connections to SQLite or PostgreSQL."""
