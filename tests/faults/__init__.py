"""What goes wrong: cancellation, crashes, other processes, bad input, full disks."""
