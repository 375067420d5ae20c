"""The server: accounts, uploads, a durable queue of jobs, the HTTP interface. It opens no image and no archive."""
