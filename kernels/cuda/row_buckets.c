#include "kernels/cuda/row_buckets.h"

/* 32, 48, 64, 96, 128, ...: behind a power of two times 32 comes its half more. */
static int32_t next_bucket(int32_t bucket)
{
    return (bucket & (bucket - 1)) == 0 ? bucket + bucket / 2 : bucket / 3 * 4;
}

int32_t row_bucket(int32_t rows, int32_t limit)
{
    int32_t bucket = ROW_BUCKET_MIN;
    while (bucket < rows)
        bucket = next_bucket(bucket);
    return bucket < limit ? bucket : limit;
}

int32_t row_bucket_count(int32_t limit)
{
    int32_t count = 1;
    for (int32_t bucket = ROW_BUCKET_MIN; bucket < limit; bucket = next_bucket(bucket))
        count++;
    return count;
}
