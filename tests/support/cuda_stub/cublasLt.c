// cuBLASLt without a GPU: handles are addresses of nothing, and products do nothing.
#include <string.h>

extern void stub_product(const char *function, int m, int n, int k);
static int handle[64];

int cublasLtCreate(void **found) { *found = handle; return 0; }
int cublasLtMatmul(void *h) { stub_product("LtMatmul", 0, 0, 0); return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *product, void *a, void *b, void *c, void *d, void *preference, int wanted, void *found, int *count) {
    memset(found, 0, 96); // one cublasLtMatmulHeuristicResult_t
    *count = 1;
    return 0;
}
int cublasLtMatmulDescCreate(void **found, int compute, int scale) { *found = handle; return 0; }
int cublasLtMatmulPreferenceCreate(void **found) { *found = handle; return 0; }
int cublasLtMatrixLayoutCreate(void **found) { *found = handle; return 0; }
int cublasLtMatrixTransformDescCreate(void **found, int scale) { *found = handle; return 0; }
