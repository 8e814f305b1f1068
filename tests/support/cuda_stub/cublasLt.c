// cuBLASLt without a GPU: products do nothing. What a product is asked to be is logged, where the runtime's stub keeps a
// log: its compute type, as cublasComputeType_t numbers it, and the types of a, b and d, as cudaDataType_t does.
#include <string.h>

extern void stub_product(const char *function, int m, int n, int k);
extern void stub_types(int compute, int a, int b, int d);
typedef struct { int type; unsigned long long rows, columns; } Layout;
static int handle[64];
static int compute_type;
static Layout layouts[4]; // made for one product after another: a, b, d, c
static unsigned made;

int cublasLtCreate(void **found) { *found = handle; return 0; }
int cublasLtMatmul(void *h) {
    stub_types(compute_type, layouts[0].type, layouts[1].type, layouts[2].type);
    stub_product("LtMatmul", layouts[2].rows, layouts[2].columns, 0);
    return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void *h, void *product, void *a, void *b, void *c, void *d, void *preference, int wanted, void *found, int *count) {
    memset(found, 0, 96); // one cublasLtMatmulHeuristicResult_t
    *count = 1;
    return 0;
}
int cublasLtMatmulDescCreate(void **found, int compute, int scale) { *found = handle; compute_type = compute; return 0; }
int cublasLtMatmulPreferenceCreate(void **found) { *found = handle; return 0; }
int cublasLtMatrixLayoutCreate(void **found, int type, unsigned long long rows, unsigned long long columns, long long stride) {
    layouts[made & 3] = (Layout){type, rows, columns};
    *found = &layouts[made++ & 3];
    return 0;
}
int cublasLtMatrixTransformDescCreate(void **found, int scale) { *found = handle; return 0; }
