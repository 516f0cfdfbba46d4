"""Programs that run as Ray jobs, one file each."""
