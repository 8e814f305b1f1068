// CUDA's runtime without a GPU: device memory is the host's, kernels do nothing, and all that happens can be logged.
//
// A copy to the host delivers zeros, because nothing was computed. `stub_log(path)` starts a log, one event per line,
// and ends the one before. Environment: STUB_DEVICES (1), STUB_MEMORY (bytes of each device).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "driver_types.h"

#define DEVICES 8
#define HEADER 256 // bytes before an allocation, which hold its size and device; also the alignment
#define FUNCTIONS 100000
#define SUCCESS 0
#define OUT_OF_MEMORY 2

typedef struct { unsigned x, y, z; } Grid;
typedef struct { size_t size; int device; } Header;
typedef struct { Grid grid, block; size_t shared; void *stream; } Launch;

static const struct { int number, value; } ATTRIBUTES[] = { // of an H200, as cudaDeviceAttr numbers them
    {1, 1024}, {8, 49152}, {10, 32}, {12, 65536}, {16, 132}, {39, 2048}, {75, 9}, {76, 0}, {81, 233472}, {82, 65536}, {97, 232448},
};
static size_t used[DEVICES];
static _Thread_local int current, last_error;
static _Thread_local Launch pending[16];
static _Thread_local unsigned depth;
static const void *functions[FUNCTIONS];
static const char *names[FUNCTIONS];
static int function_count;
static int handle[64]; // what every opaque handle points to
static FILE *log_file;

#define LOG(...) do { FILE *f = log_file; if (f) { fprintf(f, __VA_ARGS__); } } while (0)

static size_t setting(const char *name, size_t otherwise) {
    const char *given = getenv(name);
    return given ? strtoull(given, NULL, 10) : otherwise;
}
static size_t capacity(void) { return setting("STUB_MEMORY", 150000000000ull); }
static int fail(int error) { return last_error = error; }

void stub_log(const char *path) {
    if (log_file) fclose(log_file);
    log_file = path ? fopen(path, "w") : NULL;
}

// For the stubs of other libraries.
void stub_product(const char *function, int m, int n, int k) { LOG("product %s %d %d %d\n", function, m, n, k); }
void stub_types(int compute, int a, int b, int d) { LOG("types %d %d %d %d\n", compute, a, b, d); }

// Kernels: registered by name when a library is loaded.
void **__cudaRegisterFatBinary(void *binary) { return (void **)handle; }
void __cudaRegisterFatBinaryEnd(void **binary) {}
void __cudaUnregisterFatBinary(void **binary) {}
void __cudaRegisterVar(void **b, char *host, char *device, const char *name, int e, size_t size, int c, int g) {}
void __cudaRegisterFunction(void **b, const char *host, char *device, const char *name, int limit, void *tid, void *bid, void *block, void *grid, int *warp) {
    if (function_count < FUNCTIONS) { functions[function_count] = host; names[function_count++] = name; }
}
static const char *name_of(const void *function) {
    for (int i = 0; i < function_count; i++) if (functions[i] == function) return names[i];
    return "unknown";
}
static int launch(const void *function, Grid grid, Grid block) {
    if (log_file) LOG("launch %s %u %u %u %u\n", name_of(function), grid.x, grid.y, grid.z, block.x);
    return SUCCESS;
}
unsigned __cudaPushCallConfiguration(Grid grid, Grid block, size_t shared, void *stream) {
    pending[depth++ & 15] = (Launch){grid, block, shared, stream};
    return SUCCESS;
}
int __cudaPopCallConfiguration(Grid *grid, Grid *block, size_t *shared, void *stream) {
    Launch one = pending[--depth & 15];
    *grid = one.grid; *block = one.block; *shared = one.shared; *(void **)stream = one.stream;
    return SUCCESS;
}
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return SUCCESS; }
int __cudaLaunchKernel(void *f, Grid g, Grid b, void **a, size_t s, void *st) { return launch(f, g, b); }
int cudaLaunchKernel(const void *f, Grid g, Grid b, void **a, size_t s, void *st) { return launch(f, g, b); }
int cudaLaunchCooperativeKernel(const void *f, Grid g, Grid b, void **a, size_t s, void *st) { return launch(f, g, b); }
int cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *f, void **a) {
    Grid grid = {how->gridDim.x, how->gridDim.y, how->gridDim.z}, block = {how->blockDim.x, how->blockDim.y, how->blockDim.z};
    return launch(f, grid, block);
}
int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024; found->numRegs = 64; found->maxDynamicSharedSizeBytes = 232448;
    found->binaryVersion = found->ptxVersion = 90;
    return SUCCESS;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t shared, unsigned flags) { *blocks = 1; return SUCCESS; }

// Devices.
int cudaGetDeviceCount(int *count) { *count = (int)setting("STUB_DEVICES", 1); return SUCCESS; }
int cudaGetDevice(int *device) { *device = current; return SUCCESS; }
int cudaSetDevice(int device) { current = device; return SUCCESS; }
int cudaDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cudaDeviceGetAttribute(int *value, int number, int device) {
    *value = 1;
    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof *ATTRIBUTES; i++)
        if (ATTRIBUTES[i].number == number) *value = ATTRIBUTES[i].value;
    return SUCCESS;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "Stub of an NVIDIA H200");
    found->major = 9; found->minor = 0;
    found->multiProcessorCount = 132; found->warpSize = 32; found->l2CacheSize = 62914560;
    found->maxThreadsPerBlock = 1024; found->maxThreadsPerMultiProcessor = 2048;
    found->totalGlobalMem = capacity();
    found->sharedMemPerBlock = 49152; found->sharedMemPerBlockOptin = 232448; found->sharedMemPerMultiprocessor = 233472;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->maxGridSize[0] = 2147483647; found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024; found->maxThreadsDim[2] = 64;
    found->concurrentKernels = found->memoryPoolsSupported = 1;
    return SUCCESS;
}

// Memory.
int cudaMemGetInfo(size_t *free_bytes, size_t *total) { *total = capacity(); *free_bytes = used[current] < *total ? *total - used[current] : 0; return SUCCESS; }
int cudaMalloc(void **address, size_t size) {
    LOG("malloc %zu device %d\n", size, current);
    if (used[current] + size > capacity()) return fail(OUT_OF_MEMORY);
    char *memory = aligned_alloc(HEADER, (size + 2 * HEADER - 1) / HEADER * HEADER);
    if (!memory) return fail(OUT_OF_MEMORY);
    *(Header *)memory = (Header){size, current};
    __atomic_add_fetch(&used[current], size, __ATOMIC_RELAXED);
    *address = memory + HEADER;
    return SUCCESS;
}
int cudaFree(void *address) {
    if (!address) return SUCCESS;
    Header *header = (Header *)((char *)address - HEADER);
    LOG("free %zu device %d\n", header->size, header->device);
    __atomic_sub_fetch(&used[header->device], header->size, __ATOMIC_RELAXED);
    free(header);
    return SUCCESS;
}
int cudaMallocFromPoolAsync(void **address, size_t size, void *pool, void *stream) { return cudaMalloc(address, size); }
int cudaFreeAsync(void *address, void *stream) { return cudaFree(address); }
int cudaHostAlloc(void **address, size_t size, unsigned flags) {
    LOG("hostmalloc %zu\n", size);
    *address = aligned_alloc(HEADER, (size + HEADER) / HEADER * HEADER);
    return *address ? SUCCESS : fail(OUT_OF_MEMORY);
}
int cudaMallocHost(void **address, size_t size) { return cudaHostAlloc(address, size, 0); }
int cudaFreeHost(void *address) { free(address); return SUCCESS; }
static int copy(const char *how, void *to, const void *from, size_t size, int kind) {
    static const char *const KINDS[] = {"h2h", "h2d", "d2h", "d2d", "default"};
    LOG("copy %s %s %zu\n", KINDS[kind < 5 ? kind : 4], how, size);
    if (kind == cudaMemcpyDeviceToHost) memset(to, 0, size);
    else if (size) memmove(to, from, size);
    return SUCCESS;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { return copy("sync", to, from, size, kind); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return copy("async", to, from, size, kind); }
int cudaMemcpy2DAsync(void *to, size_t pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind, void *stream) {
    LOG("copy d2d 2d %zu\n", width * height);
    return SUCCESS;
}
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t size, size_t offset, int kind) { memset(to, 0, size); return SUCCESS; }
int cudaMemset(void *to, int value, size_t size) { LOG("memset %zu\n", size); memset(to, value, size); return SUCCESS; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { return cudaMemset(to, value, size); }
int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
    memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeDevice; found->device = current; found->devicePointer = (void *)address;
    return SUCCESS;
}

// Streams, events and graphs.
int cudaStreamCreate(void **stream) { *stream = handle; return SUCCESS; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = handle; return SUCCESS; }
int cudaStreamSynchronize(void *stream) { LOG("sync stream\n"); return SUCCESS; }
int cudaEventSynchronize(void *event) { LOG("sync event\n"); return SUCCESS; }
int cudaDeviceSynchronize(void) { LOG("sync device\n"); return SUCCESS; }
int cudaEventCreate(void **event) { *event = handle; return SUCCESS; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = handle; return SUCCESS; }
int cudaEventElapsedTime(float *ms, void *from, void *to) { *ms = 1; return SUCCESS; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return SUCCESS; }
int cudaStreamBeginCapture(void *stream, int mode) { LOG("capture begin\n"); return SUCCESS; }
int cudaStreamEndCapture(void *stream, void **graph) { LOG("capture end\n"); *graph = handle; return SUCCESS; }
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) { *executable = handle; return SUCCESS; }
int cudaGraphLaunch(void *executable, void *stream) { LOG("launch graph 0 0 0 0\n"); return SUCCESS; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *found) {
    *function = NULL;
    return SUCCESS;
}

// Errors.
int cudaGetLastError(void) { int error = last_error; last_error = SUCCESS; return error; }
int cudaPeekAtLastError(void) { return last_error; }
const char *cudaGetErrorName(int error) { return error == OUT_OF_MEMORY ? "cudaErrorMemoryAllocation" : "cudaErrorStub"; }
const char *cudaGetErrorString(int error) { return error == OUT_OF_MEMORY ? "out of memory" : "an error of the stub"; }
