"""The device mesh, and several processes that run as one."""
