"""Commands run confined: bubblewrap, or Landlock where that cannot start, each with seccomp and limits; else refused.

`run.Sandbox` runs, `probe.probe` says which kind works here and why others do not. Nothing is ever run in this process.
"""
