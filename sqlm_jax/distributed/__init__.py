"""Device mesh, array sharding and communication between processes."""
