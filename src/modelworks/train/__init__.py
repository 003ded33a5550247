"""The one training loop, what it steps with, and the runs that it keeps."""
