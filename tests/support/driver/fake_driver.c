/*
 * A libcuda.so.1 that fails in a chosen way, for tests of what the program says where it cannot
 * compute on a GPU. FAKE_DRIVER_VERSION (13000) is the CUDA version that it serves,
 * FAKE_DRIVER_INIT (100: no device) what its initialisation returns.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NO_DEVICE = 100, NOT_FOUND = 500, NOT_SUPPORTED = 801 };

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuGetExportTable(const void **table, const void *id);
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                        void *status);

static int number_of(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text != NULL ? atoi(text) : otherwise;
}

int cuInit(unsigned flags)
{
    (void)flags;
    return number_of("FAKE_DRIVER_INIT", NO_DEVICE);
}

int cuDriverGetVersion(int *version)
{
    *version = number_of("FAKE_DRIVER_VERSION", 13000);
    return SUCCESS;
}

int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return NOT_FOUND;
}

static int refuse(void)
{
    return NOT_SUPPORTED;
}

/* How the runtime finds every other function. */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                        void *status)
{
    void *found = (void *)(uintptr_t)refuse;
    (void)version;
    (void)flags;
    if (strcmp(symbol, "cuInit") == 0)
        found = (void *)(uintptr_t)cuInit;
    else if (strcmp(symbol, "cuDriverGetVersion") == 0)
        found = (void *)(uintptr_t)cuDriverGetVersion;
    else if (strcmp(symbol, "cuGetExportTable") == 0)
        found = (void *)(uintptr_t)cuGetExportTable;
    else if (strcmp(symbol, "cuGetProcAddress") == 0)
        found = (void *)(uintptr_t)cuGetProcAddress_v2;
    *function = found;
    if (status != NULL)
        *(int *)status = 0;
    return SUCCESS;
}
