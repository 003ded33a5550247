#define MODELWORKS_ISA kPortable
#define MODELWORKS_ISA_NAME "portable"
#include "kernels.inc"
