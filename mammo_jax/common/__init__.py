"""Ground of every room: errors, files, tables, processes, devices."""
