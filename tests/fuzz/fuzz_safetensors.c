/* Safetensors files: whatever is handed out must lie in the file. */
#include "common/error.h"
#include "server/model/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct checkpoint *checkpoint;
    struct error err = {0};
    if (!path || checkpoint_open_file(&checkpoint, path, &err)) {
        return 0;
    }
    uint8_t sum = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *tensor = checkpoint_tensor(checkpoint, i);
        char shape[64];
        tensor_shape_text(tensor, shape, sizeof shape);
        sum ^= (uint8_t)tensor_elements(tensor);
        for (size_t k = 0; k < tensor->size; k++) {
            sum ^= ((const uint8_t *)tensor->data)[k];
        }
        checkpoint_find(checkpoint, tensor->name);
        checkpoint_drop_pages(checkpoint, tensor);
    }
    __asm__ volatile("" : : "r"(sum)); /* so that every byte is read */
    checkpoint_close(checkpoint);
    return 0;
}
