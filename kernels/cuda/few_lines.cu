/*
 * out = in weight^T for up to 64 lines, as fast as the weight arrives from memory.
 *
 * The matrix instructions take 16 rows of the weight as their first operand and 8 lines as their
 * second. A tile is 128 rows of the weight, 16 a warp, with all lines; its depth comes in chunks of
 * 128 bytes, copied several chunks ahead. All chunks of all tiles, one behind the other, are cut
 * into as many equal ranges as there are blocks, one block a multiprocessor, so that none of them
 * waits for another whatever the shape (Osama et al. 2023 call that Stream-K). Where a tile belongs
 * to several blocks, each leaves its sums in memory, and the last one to do so adds them all up in
 * the order of the depth.
 *
 * The weight depends on no kernel before this one: its first chunks are asked for before those are
 * waited for.
 */
#include "kernels/cuda/few_lines.h"

#include "kernels/cuda/simt.h"
#include "kernels/cuda/vectors.h"

extern "C" {
#include "common/error.h"
}

enum {
    THREADS = 256,
    WARPS = THREADS / SIMT_WARP,
    WARP_ROWS = 16, /* of a matrix instruction */
    TILE_ROWS = WARPS * WARP_ROWS,
    PIECE = 16,                   /* bytes that a thread copies at once */
    CHUNK = 128,                  /* bytes of depth */
    CHUNK_PIECES = CHUNK / PIECE, /* of a row */
    STEP = 32,                    /* bytes of depth of a matrix instruction */
    ROW_STRIDE = CHUNK + PIECE,   /* in shared memory: an odd number of pieces spreads over banks */
    STAGES = 5,                   /* chunks in shared memory; all but one are on their way */
    COPIED_ROWS = THREADS / CHUNK_PIECES, /* that all threads copy a piece of at once */
    TILES_MAX = 4096,                     /* tickets; more rows than any vocabulary has */
    BLOCKS_MAX = 192,                     /* more multiprocessors than there are so far */
    PARTS_OF_BLOCK = 2, /* of tiles that a block does not have alone: its first, its last */
};

struct few_arguments {
    const char *weight, *in;               /* [rows, stride], [lines, stride] */
    void *out;                             /* [lines, out_stride] */
    const float *line_scales, *row_scales; /* of fp8, or NULL */
    uint32_t *parts;   /* [blocks, PARTS_OF_BLOCK, WARPS, LINES / 8, SIMT_WARP, 4] sums */
    uint32_t *tickets; /* [tiles] blocks that have left their part; 0 before and after a launch */
    int64_t stride, out_stride; /* bytes, elements */
    int32_t rows, lines, tiles;
    int32_t chunks; /* of a tile */
    bool rounded;   /* out is bfloat16 */
};

/* Chunks that a block has: [begin, end) of those of all tiles. */
SIMT_DEVICE int64_t range_begin(const struct few_arguments &arguments, uint32_t block)
{
    return (int64_t)arguments.tiles * arguments.chunks * block / simt_grid_x();
}

SIMT_DEVICE int32_t block_of(const struct few_arguments &arguments, int64_t chunk)
{
    int64_t all = (int64_t)arguments.tiles * arguments.chunks;
    return (int32_t)(((chunk + 1) * simt_grid_x() - 1) / all);
}

/* Where a chunk lies. */
struct chunk_place {
    int32_t tile, chunk;
};

SIMT_DEVICE void advance(struct chunk_place &place, int32_t chunks)
{
    place.chunk++;
    if (place.chunk == chunks) {
        place.chunk = 0;
        place.tile++;
    }
}

template <int LINES> struct stage_layout {
    static const uint32_t BYTES = (TILE_ROWS + LINES) * ROW_STRIDE;
    static const size_t SHARED = (size_t)STAGES * BYTES + PIECE; /* and a word for all */
};

template <int LINES> SIMT_DEVICE char *stage_at(uint32_t number)
{
    return simt_shared() + number % STAGES * stage_layout<LINES>::BYTES;
}

/*
 * Starts to copy `count` rows of a matrix, from row `first` and byte `at` on; what lies outside of
 * it becomes zero.
 */
SIMT_DEVICE void fetch_rows(char *to, const char *matrix, int64_t stride, int32_t first,
                            int32_t rows, int64_t at, int32_t count)
{
    int32_t row = (int32_t)simt_thread() / CHUNK_PIECES;
    int64_t byte = at + simt_thread() % CHUNK_PIECES * PIECE;
    to += row * ROW_STRIDE + simt_thread() % CHUNK_PIECES * PIECE;
    SIMT_UNROLL
    for (int32_t i = 0; i < count; i += COPIED_ROWS) {
        bool valid = first + row + i < rows && byte < stride;
        const char *from = valid ? matrix + (first + row + i) * stride + byte : matrix;
        simt_copy_async(to + i * ROW_STRIDE, from, valid);
    }
}

template <int LINES>
SIMT_DEVICE void fetch_weight(const struct few_arguments &arguments,
                              const struct chunk_place &place, uint32_t number)
{
    fetch_rows(stage_at<LINES>(number), arguments.weight, arguments.stride, place.tile * TILE_ROWS,
               arguments.rows, (int64_t)place.chunk * CHUNK, TILE_ROWS);
}

template <int LINES>
SIMT_DEVICE void fetch_lines(const struct few_arguments &arguments, const struct chunk_place &place,
                             uint32_t number)
{
    fetch_rows(stage_at<LINES>(number) + TILE_ROWS * ROW_STRIDE, arguments.in, arguments.stride, 0,
               arguments.lines, (int64_t)place.chunk * CHUNK, LINES);
}

/* sums += the warp's rows with all lines, over one chunk. */
template <enum dtype DTYPE, int LINES>
SIMT_DEVICE void multiply_chunk(uint32_t (&sums)[LINES / 8][4], uint32_t number)
{
    uint32_t lane = simt_lane(), rows[4], lines[4];
    const char *stage = stage_at<LINES>(number);
    const char *row =
        stage + (simt_warp() * WARP_ROWS + lane % 16) * ROW_STRIDE + lane / 16 * PIECE;
    const char *line =
        stage + (TILE_ROWS + lane / 16 * 8 + lane % 8) * ROW_STRIDE + lane / 8 % 2 * PIECE;
    SIMT_UNROLL
    for (int depth = 0; depth < CHUNK; depth += STEP) {
        simt_load_matrices(rows, row + depth);
        SIMT_UNROLL
        for (int tile = 0; tile < LINES / 8; tile += 2) {
            simt_load_matrices(lines, line + tile * 8 * ROW_STRIDE + depth);
            simt_multiply_words<DTYPE>(sums[tile], rows, lines[0], lines[1]);
            simt_multiply_words<DTYPE>(sums[tile + 1], rows, lines[2], lines[3]);
        }
    }
}

/* Of a tile that several blocks share, the sums of this lane in one block's part. */
template <int LINES>
SIMT_DEVICE uint32_t *part_of(const struct few_arguments &arguments, uint32_t block, int32_t tile)
{
    int64_t is_last = range_begin(arguments, block) / arguments.chunks == tile ? 0 : 1;
    int64_t part = ((int64_t)block * PARTS_OF_BLOCK + is_last) * WARPS + simt_warp();
    return arguments.parts + (part * (LINES / 8) * SIMT_WARP + simt_lane()) * 4;
}

template <int LINES>
SIMT_DEVICE void load_part(uint32_t (&sums)[LINES / 8][4], const struct few_arguments &arguments,
                           int32_t block, int32_t tile)
{
    const uint32_t *part = part_of<LINES>(arguments, (uint32_t)block, tile);
    SIMT_UNROLL
    for (int i = 0; i < LINES / 8; i++)
        simt_load_fresh(sums[i], part + i * SIMT_WARP * 4);
}

template <enum dtype DTYPE> SIMT_DEVICE uint32_t added(uint32_t a, uint32_t b)
{
    if (DTYPE == DTYPE_INT8)
        return a + b;
    return simt_bits_of_float(simt_float_of_bits(a) + simt_float_of_bits(b));
}

/*
 * Leaves the sums of a tile for the block that is the last to do so; there they become those of the
 * whole tile. False in all others.
 */
template <enum dtype DTYPE, int LINES>
SIMT_DEVICE bool gather_parts(uint32_t (&sums)[LINES / 8][4], const struct few_arguments &arguments,
                              int32_t tile)
{
    uint32_t *ticket = (uint32_t *)(simt_shared() + stage_layout<LINES>::SHARED - PIECE);
    int64_t begin = (int64_t)tile * arguments.chunks;
    int32_t first = block_of(arguments, begin);
    int32_t last = block_of(arguments, begin + arguments.chunks - 1);
    uint32_t *part = part_of<LINES>(arguments, simt_block_x(), tile);
    SIMT_UNROLL
    for (int i = 0; i < LINES / 8; i++)
        *(struct four_words *)(part + i * SIMT_WARP * 4) = {sums[i][0], sums[i][1], sums[i][2],
                                                            sums[i][3]};
    simt_barrier();
    if (simt_thread() == 0) {
        simt_fence();
        *ticket = simt_atomic_add(arguments.tickets + tile, 1u);
        simt_fence();
    }
    simt_barrier();
    if (*ticket != (uint32_t)(last - first))
        return false;
    /* The next part is on its way while one is added: there are two at least. */
    uint32_t part_sums[LINES / 8][4], next[LINES / 8][4];
    load_part<LINES>(sums, arguments, first, tile);
    load_part<LINES>(next, arguments, first + 1, tile);
    SIMT_NO_UNROLL
    for (int32_t block = first + 1; block <= last; block++) {
        SIMT_UNROLL
        for (int i = 0; i < LINES / 8; i++) {
            SIMT_UNROLL
            for (int j = 0; j < 4; j++)
                part_sums[i][j] = next[i][j];
        }
        if (block < last)
            load_part<LINES>(next, arguments, block + 1, tile);
        SIMT_UNROLL
        for (int i = 0; i < LINES / 8; i++) {
            SIMT_UNROLL
            for (int j = 0; j < 4; j++)
                sums[i][j] = added<DTYPE>(sums[i][j], part_sums[i][j]);
        }
    }
    if (simt_thread() == 0)
        arguments.tickets[tile] = 0;
    return true;
}

template <enum dtype DTYPE>
SIMT_DEVICE void store_sum(const struct few_arguments &arguments, int32_t line, int32_t row,
                           uint32_t sum)
{
    int64_t at = line * arguments.out_stride + row;
    if (line >= arguments.lines || row >= arguments.rows)
        return;
    if (DTYPE == DTYPE_INT8) {
        ((uint32_t *)arguments.out)[at] = sum;
        return;
    }
    float result = simt_float_of_bits(sum);
    if (arguments.line_scales != NULL)
        result *= arguments.line_scales[line] * arguments.row_scales[row];
    if (arguments.rounded)
        ((uint16_t *)arguments.out)[at] = simt_to_bfloat16(result);
    else
        ((float *)arguments.out)[at] = result;
}

/* Of a tile of which this block has had the chunks [first, behind). */
template <enum dtype DTYPE, int LINES>
SIMT_DEVICE void finish_tile(uint32_t (&sums)[LINES / 8][4], const struct few_arguments &arguments,
                             int32_t tile, int32_t first, int32_t behind)
{
    bool whole = first == 0 && behind == arguments.chunks;
    if (!whole && !gather_parts<DTYPE, LINES>(sums, arguments, tile))
        return;
    int32_t row = tile * TILE_ROWS + (int32_t)(simt_warp() * WARP_ROWS + simt_lane() / 4);
    SIMT_UNROLL
    for (int i = 0; i < LINES / 8; i++) {
        SIMT_UNROLL
        for (int j = 0; j < 4; j++)
            store_sum<DTYPE>(arguments, i * 8 + (int32_t)simt_lane() % 4 * 2 + j % 2,
                             row + j / 2 * 8, sums[i][j]);
    }
}

template <enum dtype DTYPE, int LINES>
SIMT_KERNEL(THREADS, 1)
void few_lines(const struct few_arguments arguments)
{
    simt_release_next();
    uint32_t sums[LINES / 8][4] = {};
    const int64_t begin = range_begin(arguments, simt_block_x());
    const int32_t count = (int32_t)(range_begin(arguments, simt_block_x() + 1) - begin);
    struct chunk_place place = {(int32_t)(begin / arguments.chunks),
                                (int32_t)(begin % arguments.chunks)};
    struct chunk_place ahead = place;
    int32_t first = place.chunk;
    for (int32_t i = 0; i < STAGES - 1 && i < count; i++) {
        fetch_weight<LINES>(arguments, ahead, (uint32_t)i);
        advance(ahead, arguments.chunks);
    }
    simt_await_previous();
    ahead = place;
    /* A group of copies for each chunk, empty behind the last one. */
    for (int32_t i = 0; i < STAGES - 1; i++) {
        if (i < count) {
            fetch_lines<LINES>(arguments, ahead, (uint32_t)i);
            advance(ahead, arguments.chunks);
        }
        simt_copy_commit();
    }
    for (int32_t i = 0; i < count; i++) {
        simt_copy_wait<STAGES - 2>();
        /* The chunk is there, and everyone has done with the memory of the one before it. */
        simt_barrier();
        if (i + STAGES - 1 < count) {
            fetch_weight<LINES>(arguments, ahead, (uint32_t)(i + STAGES - 1));
            fetch_lines<LINES>(arguments, ahead, (uint32_t)(i + STAGES - 1));
            advance(ahead, arguments.chunks);
        }
        simt_copy_commit();
        multiply_chunk<DTYPE, LINES>(sums, (uint32_t)i);
        int32_t tile = place.tile, behind = place.chunk + 1;
        advance(place, arguments.chunks);
        if (place.tile == tile && i + 1 < count)
            continue;
        finish_tile<DTYPE, LINES>(sums, arguments, tile, first, behind);
        first = 0;
        SIMT_UNROLL
        for (int j = 0; j < LINES / 8; j++)
            sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0;
    }
}

/* ---- on the host -------------------------------------------------------------------------------
 */

enum { PART_WORDS = PARTS_OF_BLOCK * TILE_ROWS * FEW_LINES_MAX };

extern "C" size_t cuda_few_lines_bytes(void)
{
    return ((size_t)BLOCKS_MAX * PART_WORDS + TILES_MAX) * sizeof(uint32_t);
}

template <enum dtype DTYPE> static void load_few()
{
    simt_load(few_lines<DTYPE, FEW_LINES_MAX>);
    simt_load(few_lines<DTYPE, FEW_LINES_MAX / 2>);
}

/* Kernels are loaded here, because their first launch is one of a recording. */
extern "C" int cuda_few_lines_open(struct cuda_backend *cuda, struct error *err)
{
    void *block;
    int status =
        device_memory_create(&block, cuda_few_lines_bytes(), "sums of products of few lines", err);
    load_few<DTYPE_BFLOAT16>();
    load_few<DTYPE_INT8>();
    load_few<DTYPE_FP8>();
    if (status == 0) {
        cuda->few_parts = (uint32_t *)block;
        cuda->few_tickets = cuda->few_parts + (size_t)BLOCKS_MAX * PART_WORDS;
    }
    return status;
}

extern "C" void cuda_few_lines_close(struct cuda_backend *cuda)
{
    device_memory_destroy(cuda->few_parts);
}

static int64_t stride_of(const struct cuda_product *product)
{
    return product->weight->stride * (int64_t)dtype_size(product->weight->dtype);
}

extern "C" bool cuda_few_lines_fits(const struct cuda_backend *cuda,
                                    const struct cuda_product *product)
{
    int64_t stride = stride_of(product);
    bool has_numbers = product->weight->dtype != DTYPE_FP8 || cuda->facts.capability >= 90;
    return has_numbers && stride % PIECE == 0 && stride > 0 &&
           stage_layout<FEW_LINES_MAX>::SHARED <= cuda->facts.shared_bytes &&
           product->rows <= (int64_t)TILES_MAX * TILE_ROWS;
}

template <enum dtype DTYPE>
static void launch_few(struct cuda_backend *cuda, const struct few_arguments &arguments)
{
    const int64_t chunks = (int64_t)arguments.tiles * arguments.chunks;
    const int64_t multiprocessors = cuda->facts.multiprocessors;
    int64_t blocks = multiprocessors < (int64_t)BLOCKS_MAX ? multiprocessors : (int64_t)BLOCKS_MAX;
    struct simt_grid grid = {(uint32_t)(chunks < blocks ? chunks : blocks), 1, THREADS,
                             stage_layout<FEW_LINES_MAX>::SHARED};
    if (arguments.lines > FEW_LINES_MAX / 2) {
        simt_launch(&cuda->queue, (few_lines<DTYPE, FEW_LINES_MAX>), grid, arguments);
        return;
    }
    grid.shared = stage_layout<FEW_LINES_MAX / 2>::SHARED;
    simt_launch(&cuda->queue, (few_lines<DTYPE, FEW_LINES_MAX / 2>), grid, arguments);
}

/* Lines [first, first + FEW_LINES_MAX) of the product. */
static struct few_arguments few_arguments_of(const struct cuda_backend *cuda,
                                             const struct cuda_product *product, int32_t first)
{
    const int64_t stride = stride_of(product);
    const size_t element = product->rounded ? sizeof(uint16_t) : sizeof(float);
    const int32_t lines = product->lines - first;
    struct few_arguments arguments = {};
    arguments.weight = (const char *)product->weight->values + product->first * stride;
    arguments.in = (const char *)product->in + first * stride;
    arguments.out = (char *)product->out + (size_t)(first * product->out_stride) * element;
    if (product->in_scales != NULL) {
        arguments.line_scales = product->in_scales + first;
        arguments.row_scales = product->weight->scales + product->first;
    }
    arguments.parts = cuda->few_parts;
    arguments.tickets = cuda->few_tickets;
    arguments.stride = stride;
    arguments.out_stride = product->out_stride;
    arguments.rows = (int32_t)product->rows;
    arguments.lines = lines < FEW_LINES_MAX ? lines : (int32_t)FEW_LINES_MAX;
    arguments.tiles = (int32_t)((product->rows + TILE_ROWS - 1) / TILE_ROWS);
    arguments.chunks = (int32_t)((stride + CHUNK - 1) / CHUNK);
    arguments.rounded = product->rounded;
    return arguments;
}

extern "C" void cuda_few_lines(struct cuda_backend *cuda, const struct cuda_product *product)
{
    for (int32_t first = 0; first < product->lines; first += FEW_LINES_MAX) {
        const struct few_arguments arguments = few_arguments_of(cuda, product, first);
        if (product->weight->dtype == DTYPE_INT8)
            launch_few<DTYPE_INT8>(cuda, arguments);
        else if (product->weight->dtype == DTYPE_FP8)
            launch_few<DTYPE_FP8>(cuda, arguments);
        else
            launch_few<DTYPE_BFLOAT16>(cuda, arguments);
    }
}
