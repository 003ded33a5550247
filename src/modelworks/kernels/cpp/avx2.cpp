#define MODELWORKS_ISA kAvx2
#define MODELWORKS_ISA_NAME "avx2"
#include "kernels.inc"
