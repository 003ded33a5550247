#define MODELWORKS_ISA kNeon
#define MODELWORKS_ISA_NAME "neon"
#include "kernels.inc"
