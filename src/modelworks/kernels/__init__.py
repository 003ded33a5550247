"""Fast kernels, each beside its plain numpy reference; `native()` is the compiled half, where there is one."""
