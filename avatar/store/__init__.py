"""Where everything is kept: one bucket of any S3 server, and an embedded one to start with."""
