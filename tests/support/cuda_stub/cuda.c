// The driver without a GPU: as many devices as STUB_DEVICES says, each with STUB_MEMORY bytes, all of them free.
#include <stdlib.h>
#include <string.h>

static int context[64];

static size_t setting(const char *name, size_t otherwise) {
    const char *given = getenv(name);
    return given ? strtoull(given, NULL, 10) : otherwise;
}
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = (int)setting("STUB_DEVICES", 1); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stub of an NVIDIA H200", size); return 0; }
int cuDeviceTotalMem_v2(size_t *total, int device) { *total = setting("STUB_MEMORY", 150000000000ull); return 0; }
int cuDeviceGetAttribute(int *value, int number, int device) { *value = number == 75 ? 9 : 0; return 0; } // 9.0
int cuDevicePrimaryCtxRetain(void **found, int device) { *found = context; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *given) { return 0; }
int cuCtxPopCurrent_v2(void **found) { *found = context; return 0; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = setting("STUB_MEMORY", 150000000000ull);
    return 0;
}
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR_STUB"; return 0; }
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t size, void *stream) {
    memcpy((void *)to, (void *)from, size);
    return 0;
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t size, void *stream) {
    memset((void *)to, value, size);
    return 0;
}
int cuStreamSynchronize(void *stream) { return 0; }
