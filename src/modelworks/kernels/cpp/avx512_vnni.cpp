#define MODELWORKS_ISA kAvx512Vnni
#define MODELWORKS_ISA_NAME "avx512_vnni"
#include "kernels.inc"
