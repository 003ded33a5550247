#define MODELWORKS_ISA kAvxVnni
#define MODELWORKS_ISA_NAME "avx_vnni"
#include "kernels.inc"
