// cuBLAS without a GPU: products do nothing. Calls are logged by the runtime's stub, where it keeps a log.
#include <stdio.h>

extern void stub_product(const char *function, int m, int n, int k);
static int handle[64];

int cublasCreate_v2(void **found) { *found = handle; return 0; }
int cublasGetMathMode(void *h, int *mode) { *mode = 0; return 0; }
int cublasGemmEx(void *h, int ta, int tb, int m, int n, int k) { stub_product("GemmEx", m, n, k); return 0; }
int cublasGemmBatchedEx(void *h, int ta, int tb, int m, int n, int k) { stub_product("GemmBatchedEx", m, n, k); return 0; }
int cublasGemmStridedBatchedEx(void *h, int ta, int tb, int m, int n, int k) {
    stub_product("GemmStridedBatchedEx", m, n, k);
    return 0;
}
int cublasSgemm_v2(void *h, int ta, int tb, int m, int n, int k) { stub_product("Sgemm", m, n, k); return 0; }
const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_STUB"; }
const char *cublasGetStatusString(int status) { return "a status of the stub"; }
