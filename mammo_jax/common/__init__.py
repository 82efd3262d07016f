"""What every room stands on: errors, files, tables, processes, devices."""
