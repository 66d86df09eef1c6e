/*
 * Attention over paged keys and values: online softmax with matrix instructions, as
 * FlashAttention-2 (Dao 2023) lays it out. A block takes items of the step's work list: up to 64
 * lines, 16 for each of its four warps, a line being one row with one query head. Query heads that
 * share a kv head are lines of the same tile, so a page of K and V is read once for all of them.
 * While a page is worked on, the next ones are copied into other parts of shared memory.
 *
 * A shadow row is a line like the others: the few products in which its own K and V take the place
 * of the cached ones are done once more for it.
 *
 * A line's result depends on its own kv_end alone: pages and chunks begin at fixed positions, and
 * the matrix instructions treat each line the same wherever it stands in a tile.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/simt.h"

enum {
    ATTENTION_THREADS = 128,
    WARP_LINES = 16,                    /* rows of a matrix instruction */
    PAGE_TILES = KV_PAGE_POSITIONS / 8, /* its columns are positions of a page */
    LAUNCHED_BLOCKS = 4, /* for each multiprocessor, at most: they take one item after the other */
    /*
     * Pages that are copied while one is worked on. Of head_dim 128, two leave room for two blocks
     * on a multiprocessor of 9.0, and registers allow no third; others may have less memory.
     */
    AHEAD_MOST = 2,
    AHEAD_LEAST = 1,
};

struct attention_arguments {
    const struct step_counts *counts;
    const struct attention_item *items;
    const int32_t *part_first, *position, *shadow, *line, *page_table;
    const uint16_t *qkv;           /* [rows, heads + 2 kv_heads, head_dim] */
    const uint16_t *keys, *values; /* pages of this layer */
    uint16_t *out;                 /* [rows, heads, head_dim] */
    float *part_sums, *part_norms; /* struct cuda_backend */
    int32_t pages_per_line, heads, kv_heads, head_dim;
    float scale; /* of scores, so that a power of 2 takes the place of one of e */
};

/* Elements from line to line in shared memory: an odd number of 16 bytes spreads over the banks. */
template <int DIM> struct page_layout {
    static const int STRIDE = DIM + 8;
    static const int ELEMENTS = KV_PAGE_POSITIONS * STRIDE;
    static const size_t PAGE = 2 * ELEMENTS * sizeof(uint16_t); /* K and V */
};

/* K of a page, V behind it, in a block that holds AHEAD + 1 pages. */
template <int DIM, int AHEAD> SIMT_DEVICE uint16_t *shared_page(int32_t page)
{
    return (uint16_t *)simt_shared() + page % (AHEAD + 1) * 2 * page_layout<DIM>::ELEMENTS;
}

/* What a warp keeps of its lines; a lane has two of them, lane / 4 and that + 8. */
template <int DIM> struct warp_lines {
    uint32_t query[DIM / 16][4];
    float sums[DIM / 8][4];
    float largest[2], total[2]; /* total: of the columns that this lane has seen */
};

/* Row and query head of line `line` of the tile. */
struct line_place {
    int32_t row, head;
};
SIMT_DEVICE struct line_place place_of(const struct attention_arguments &arguments,
                                       const struct attention_item &item, int32_t line)
{
    int32_t group = arguments.heads / arguments.kv_heads;
    return {item.first + line / item.group_count,
            item.kv_head * group + item.group_first + line % item.group_count};
}

/* Starts to copy a page of the item's positions; those behind its end become zeros. */
template <int DIM>
SIMT_DEVICE void fetch_page(const struct attention_arguments &arguments,
                            const struct attention_item &item, const int32_t *pages, int32_t page,
                            uint16_t *to_keys)
{
    const int PARTS = DIM / 8; /* of 16 bytes */
    int32_t begin = item.kv_begin + page * KV_PAGE_POSITIONS;
    int64_t index = (int64_t)pages[begin / KV_PAGE_POSITIONS] * arguments.kv_heads + item.kv_head;
    const uint16_t *keys = arguments.keys + index * KV_PAGE_POSITIONS * DIM;
    const uint16_t *values = arguments.values + index * KV_PAGE_POSITIONS * DIM;
    uint16_t *to_values = to_keys + page_layout<DIM>::ELEMENTS;
    /* Unrolled, its addresses would push other values into local memory. */
    SIMT_NO_UNROLL
    for (int i = 0; i < KV_PAGE_POSITIONS * PARTS / ATTENTION_THREADS; i++) {
        int32_t part = (int32_t)simt_thread() + i * ATTENTION_THREADS;
        int32_t position = part / PARTS, column = part % PARTS * 8;
        bool valid = begin + position < item.kv_end;
        int32_t to = position * page_layout<DIM>::STRIDE + column;
        simt_copy_async(to_keys + to, keys + position * DIM + column, valid);
        simt_copy_async(to_values + to, values + position * DIM + column, valid);
    }
}

/* The warp's queries, by way of the memory that is the last to be filled. */
template <int DIM>
SIMT_DEVICE void load_queries(struct warp_lines<DIM> &lines,
                              const struct attention_arguments &arguments,
                              const struct attention_item &item, uint16_t *shared)
{
    const int STRIDE = page_layout<DIM>::STRIDE;
    int32_t count = item.rows * item.group_count, first = (int32_t)simt_warp() * WARP_LINES;
    shared += first * STRIDE;
    for (int32_t i = 0; i < WARP_LINES; i++) {
        const struct line_place place =
            place_of(arguments, item, first + i < count ? first + i : 0);
        const uint32_t *from =
            (const uint32_t *)(arguments.qkv +
                               ((int64_t)place.row * (arguments.heads + 2 * arguments.kv_heads) +
                                place.head) *
                                   arguments.head_dim);
        for (int32_t pair = (int32_t)simt_lane(); pair < DIM / 2; pair += SIMT_WARP) {
            bool used = first + i < count && pair * 2 < arguments.head_dim;
            ((uint32_t *)(shared + i * STRIDE))[pair] = used ? from[pair] : 0;
        }
    }
    simt_warp_barrier(SIMT_ALL);
    const uint16_t *row = shared + simt_lane() % 16 * STRIDE + simt_lane() / 16 * 8;
    SIMT_UNROLL
    for (int depth = 0; depth < DIM / 16; depth++)
        simt_load_matrices(lines.query[depth], row + depth * 16);
}

/*
 * Line lane % 16 of the warp: its row, and where in the page it sees its own K and V in place of
 * the cached ones, because it is a shadow row; -1: nowhere.
 */
struct own_place {
    int32_t row, index;
};
SIMT_DEVICE struct own_place own_place_in(const struct attention_arguments &arguments,
                                          const struct attention_item &item, int32_t page)
{
    int32_t line = (int32_t)(simt_warp() * WARP_LINES + simt_lane() % WARP_LINES);
    int32_t begin = item.kv_begin + page * KV_PAGE_POSITIONS;
    if (line >= item.rows * item.group_count)
        return {0, -1};
    int32_t row = item.first + line / item.group_count;
    int32_t index = arguments.position[row] - begin;
    bool here = arguments.shadow[row] != 0 && index >= 0 && index < KV_PAGE_POSITIONS &&
                begin + index < item.kv_end;
    return {row, here ? index : -1};
}

/* The row's own K, or V, of the item's kv head. */
SIMT_DEVICE const uint16_t *own_head(const struct attention_arguments &arguments,
                                     const struct attention_item &item, int32_t row, bool is_value)
{
    int64_t heads = arguments.heads + 2 * arguments.kv_heads;
    int32_t head = arguments.heads + (is_value ? arguments.kv_heads : 0) + item.kv_head;
    return arguments.qkv + (row * heads + head) * arguments.head_dim;
}

/* scores = queries K^T of one page. */
template <int DIM>
SIMT_DEVICE void multiply_keys(float (&scores)[PAGE_TILES][4], const struct warp_lines<DIM> &lines,
                               const uint16_t *page)
{
    const int STRIDE = page_layout<DIM>::STRIDE;
    uint32_t lane = simt_lane(), keys[4];
    const uint16_t *row = page + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
    SIMT_UNROLL
    for (int depth = 0; depth < DIM / 16; depth++) {
        SIMT_UNROLL
        for (int tile = 0; tile < PAGE_TILES; tile += 2) {
            simt_load_matrices(keys, row + tile * 8 * STRIDE + depth * 16);
            simt_multiply(scores[tile], lines.query[depth], keys[0], keys[1]);
            simt_multiply(scores[tile + 1], lines.query[depth], keys[2], keys[3]);
        }
    }
}

/*
 * For an element of an array that must stay in registers: a store under a condition, or a choice
 * between elements instead of values, would take an address.
 */
SIMT_DEVICE float chosen(bool first, float a, float b)
{
    return first ? a : b;
}

/*
 * Replaces the score of one line at `index` by that of its own K. Only this column of the product
 * is used: the same instructions as for a cached K, hence the same bits.
 */
template <int DIM>
SIMT_DEVICE void score_own_key(float (&scores)[PAGE_TILES][4], const struct warp_lines<DIM> &lines,
                               const uint16_t *own_key, int32_t head_dim, int32_t line,
                               int32_t index)
{
    const uint32_t *key = (const uint32_t *)own_key;
    int32_t lane = (int32_t)simt_lane();
    bool is_column = lane / 4 == index % 8;
    float sums[4] = {};
    SIMT_UNROLL
    for (int depth = 0; depth < DIM / 16; depth++) {
        int32_t pair = depth * 8 + lane % 4;
        uint32_t low = is_column && pair * 2 < head_dim ? key[pair] : 0;
        uint32_t high = is_column && pair * 2 + 8 < head_dim ? key[pair + 4] : 0;
        simt_multiply(sums, lines.query[depth], low, high);
    }
    bool is_here = lane / 4 == line % 8 && lane % 4 == index % 8 / 2;
    SIMT_UNROLL
    for (int tile = 0; tile < PAGE_TILES; tile++) {
        SIMT_UNROLL
        for (int j = 0; j < 4; j++) {
            bool is_it = is_here && tile == index / 8 && j == line / 8 * 2 + index % 2;
            scores[tile][j] = chosen(is_it, sums[j], scores[tile][j]);
        }
    }
}

/*
 * Turns scores of the first `count` positions into weights, and scales down what was summed before
 * where a larger score has come. i = 0, 1 is the lane's line.
 */
template <int DIM>
SIMT_DEVICE void weigh_scores(float (&scores)[PAGE_TILES][4], struct warp_lines<DIM> &lines,
                              int32_t count, float scale, int i)
{
    float largest = lines.largest[i];
    SIMT_UNROLL
    for (int tile = 0; tile < PAGE_TILES; tile++) {
        SIMT_UNROLL
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            int32_t position = tile * 8 + (int32_t)simt_lane() % 4 * 2 + j % 2;
            scores[tile][j] = position < count ? scores[tile][j] * scale : -INFINITY;
            largest = fmaxf(largest, scores[tile][j]);
        }
    }
    largest = fmaxf(largest, simt_shuffle_xor(SIMT_ALL, largest, 1));
    largest = fmaxf(largest, simt_shuffle_xor(SIMT_ALL, largest, 2));
    /* Where all scores are -infinity so far, every weight is 0, and not the NaN of inf - inf. */
    float base = largest == -INFINITY ? 0.0f : largest;
    float correction = simt_exp2(lines.largest[i] - base), total = 0;
    SIMT_UNROLL
    for (int tile = 0; tile < PAGE_TILES; tile++) {
        SIMT_UNROLL
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            scores[tile][j] = simt_exp2(scores[tile][j] - base);
            total += scores[tile][j];
        }
    }
    SIMT_UNROLL
    for (int tile = 0; tile < DIM / 8; tile++) {
        lines.sums[tile][2 * i] *= correction;
        lines.sums[tile][2 * i + 1] *= correction;
    }
    lines.total[i] = lines.total[i] * correction + total;
    lines.largest[i] = largest;
}

/*
 * sums += weights V for 8 columns from `column` on, at 16 positions; for each line of `owners` once
 * more with its own V in place of the cached one, of which that line alone is kept.
 */
SIMT_DEVICE void add_own_values(float (&sums)[4], const uint32_t (&weights)[4], uint32_t low,
                                uint32_t high, const struct attention_arguments &arguments,
                                const struct attention_item &item, const struct own_place &place,
                                uint32_t owners, int32_t column)
{
    int32_t lane = (int32_t)simt_lane();
    const float before[4] = {sums[0], sums[1], sums[2], sums[3]};
    simt_multiply(sums, weights, low, high);
    for (uint32_t rest = owners; rest != 0; rest &= rest - 1) {
        uint32_t line = simt_first_bit(rest);
        int32_t row = simt_shuffle(SIMT_ALL, place.row, line);
        int32_t index = simt_shuffle(SIMT_ALL, place.index, line);
        int32_t dimension = column + lane / 4;
        uint32_t value =
            dimension < arguments.head_dim ? own_head(arguments, item, row, true)[dimension] : 0;
        uint32_t shift = index % 2 * 16, kept = 0xffff0000u >> shift;
        bool is_row = lane % 4 == index % 8 / 2, is_high = index % 16 >= 8;
        uint32_t own_low = is_row && !is_high ? (low & kept) | value << shift : low;
        uint32_t own_high = is_row && is_high ? (high & kept) | value << shift : high;
        float own[4] = {before[0], before[1], before[2], before[3]};
        simt_multiply(own, weights, own_low, own_high);
        SIMT_UNROLL
        for (int j = 0; j < 4; j++) {
            bool is_line = (uint32_t)lane / 4 == line % 8 && (uint32_t)j / 2 == line / 8;
            sums[j] = chosen(is_line, own[j], sums[j]);
        }
    }
}

/* sums += weights V of one page; `shadows` tells whether any line of the warp has a place in it. */
template <int DIM>
SIMT_DEVICE void add_values(struct warp_lines<DIM> &lines, const float (&weights)[PAGE_TILES][4],
                            const struct attention_arguments &arguments,
                            const struct attention_item &item, const struct own_place &place,
                            bool shadows, const uint16_t *page)
{
    const int STRIDE = page_layout<DIM>::STRIDE;
    uint32_t lane = simt_lane(), values[4];
    const uint16_t *row = page + page_layout<DIM>::ELEMENTS + lane % 16 * STRIDE + lane / 16 * 8;
    SIMT_UNROLL
    for (int depth = 0; depth < PAGE_TILES / 2; depth++) {
        const float(&low)[4] = weights[2 * depth], (&high)[4] = weights[2 * depth + 1];
        const uint32_t packed[4] = {simt_pack(low[0], low[1]), simt_pack(low[2], low[3]),
                                    simt_pack(high[0], high[1]), simt_pack(high[2], high[3])};
        uint32_t owners = 0;
        if (shadows)
            owners = simt_ballot(SIMT_ALL, lane < WARP_LINES && place.index >= 0 &&
                                               place.index / 16 == depth);
        SIMT_UNROLL
        for (int tile = 0; tile < DIM / 8; tile += 2) {
            simt_load_matrices_transposed(values, row + depth * 16 * STRIDE + tile * 8);
            if (owners == 0) {
                simt_multiply(lines.sums[tile], packed, values[0], values[1]);
                simt_multiply(lines.sums[tile + 1], packed, values[2], values[3]);
            } else {
                add_own_values(lines.sums[tile], packed, values[0], values[1], arguments, item,
                               place, owners, tile * 8);
                add_own_values(lines.sums[tile + 1], packed, values[2], values[3], arguments, item,
                               place, owners, tile * 8 + 8);
            }
        }
    }
}

/* The lane's part of one line: into out, or into the parts that are merged later. */
template <int DIM>
SIMT_DEVICE void store_line(const struct attention_arguments &arguments,
                            const struct attention_item &item, const struct warp_lines<DIM> &lines,
                            int i)
{
    float total = lines.total[i];
    total += simt_shuffle_xor(SIMT_ALL, total, 1);
    total += simt_shuffle_xor(SIMT_ALL, total, 2);
    int32_t line = (int32_t)(simt_warp() * WARP_LINES + simt_lane() / 4) + 8 * i;
    if (line >= item.rows * item.group_count)
        return;
    const struct line_place place = place_of(arguments, item, line);
    int32_t column = (int32_t)simt_lane() % 4 * 2;
    if (item.chunk < 0) {
        /* A dead row, which sees nothing, is 0. */
        float inverse = item.kv_end > 0 ? 1.0f / total : 0.0f;
        uint16_t *out = arguments.out +
                        ((int64_t)place.row * arguments.heads + place.head) * arguments.head_dim;
        SIMT_UNROLL
        for (int tile = 0; tile < DIM / 8; tile++) {
            if (tile * 8 + column < arguments.head_dim)
                *(uint32_t *)(out + tile * 8 + column) = simt_pack(
                    lines.sums[tile][2 * i] * inverse, lines.sums[tile][2 * i + 1] * inverse);
        }
        return;
    }
    int64_t part =
        (int64_t)(arguments.part_first[place.row] + item.chunk) * arguments.heads + place.head;
    SIMT_UNROLL
    for (int tile = 0; tile < DIM / 8; tile++) {
        float *to = arguments.part_sums + part * DIM + tile * 8 + column;
        to[0] = lines.sums[tile][2 * i];
        to[1] = lines.sums[tile][2 * i + 1];
    }
    if (column == 0) {
        arguments.part_norms[part * 2] = lines.largest[i];
        arguments.part_norms[part * 2 + 1] = total;
    }
}

template <int DIM>
SIMT_DEVICE void attend_page(const struct attention_arguments &arguments,
                             const struct attention_item &item, struct warp_lines<DIM> &lines,
                             int32_t page, const uint16_t *shared)
{
    float scores[PAGE_TILES][4] = {};
    int32_t seen = item.kv_end - item.kv_begin - page * KV_PAGE_POSITIONS;
    const struct own_place place = own_place_in(arguments, item, page);
    uint32_t owners = simt_ballot(SIMT_ALL, simt_lane() < WARP_LINES && place.index >= 0);
    multiply_keys(scores, lines, shared);
    for (uint32_t rest = owners; rest != 0; rest &= rest - 1) {
        uint32_t line = simt_first_bit(rest);
        int32_t row = simt_shuffle(SIMT_ALL, place.row, line);
        int32_t index = simt_shuffle(SIMT_ALL, place.index, line);
        score_own_key(scores, lines, own_head(arguments, item, row, false), arguments.head_dim,
                      (int32_t)line, index);
    }
    weigh_scores(scores, lines, seen, arguments.scale, 0);
    weigh_scores(scores, lines, seen, arguments.scale, 1);
    add_values(lines, scores, arguments, item, place, owners != 0, shared);
}

template <int DIM, int AHEAD>
SIMT_DEVICE void attend_item(const struct attention_arguments &arguments,
                             const struct attention_item &item)
{
    warp_lines<DIM> lines = {};
    const int32_t *pages =
        arguments.page_table + (int64_t)arguments.line[item.first] * arguments.pages_per_line;
    int32_t positions = item.kv_end - item.kv_begin;
    int32_t count = (positions + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS;
    bool works = (int32_t)simt_warp() * WARP_LINES < item.rows * item.group_count;
    lines.largest[0] = lines.largest[1] = -INFINITY;
    /* A group of copies for each page, empty behind the last one: so many are always under way. */
    SIMT_NO_UNROLL
    for (int32_t page = 0; page < AHEAD; page++) {
        if (page < count)
            fetch_page<DIM>(arguments, item, pages, page, shared_page<DIM, AHEAD>(page));
        simt_copy_commit();
    }
    load_queries(lines, arguments, item, shared_page<DIM, AHEAD>(AHEAD));
    for (int32_t page = 0; page < count; page++) {
        simt_copy_wait<AHEAD - 1>();
        /* The page is there, and everyone has done with the memory of the one before it. */
        simt_barrier();
        if (page + AHEAD < count)
            fetch_page<DIM>(arguments, item, pages, page + AHEAD,
                            shared_page<DIM, AHEAD>(page + AHEAD));
        simt_copy_commit();
        if (works)
            attend_page(arguments, item, lines, page, shared_page<DIM, AHEAD>(page));
    }
    if (works) {
        store_line(arguments, item, lines, 0);
        store_line(arguments, item, lines, 1);
    }
}

/* Of large heads two blocks fit; told so, the compiler keeps everything in registers. */
template <int DIM, int AHEAD>
SIMT_KERNEL(ATTENTION_THREADS, DIM > 96 ? 2 : 0)
void attention(const struct attention_arguments arguments)
{
    simt_begin();
    for (uint32_t i = simt_block_x(); i < (uint32_t)arguments.counts->items; i += simt_grid_x()) {
        const struct attention_item item = arguments.items[i];
        attend_item<DIM, AHEAD>(arguments, item);
        simt_barrier(); /* before the next item's pages come */
    }
}

template <int DIM, int AHEAD = AHEAD_MOST>
static void launch_attention(struct cuda_backend *cuda, const struct attention_arguments &arguments)
{
    int64_t items = work_list_room_for(&cuda->limits, cuda->row_bucket).items;
    int64_t blocks = (int64_t)cuda->facts.multiprocessors * LAUNCHED_BLOCKS;
    const struct simt_grid grid = {(uint32_t)(items < blocks ? items : blocks), 1,
                                   ATTENTION_THREADS, (AHEAD + 1) * page_layout<DIM>::PAGE};
    simt_launch(&cuda->queue, (attention<DIM, AHEAD>), grid, arguments);
}

/* Pages are filled up to a multiple of 16 with zeros, and there is a kernel for each. */
static void launch_padded(struct cuda_backend *cuda, const struct attention_arguments &arguments)
{
    switch (cuda->padded_head_dim) {
    case 16:
        return launch_attention<16>(cuda, arguments);
    case 32:
        return launch_attention<32>(cuda, arguments);
    case 48:
        return launch_attention<48>(cuda, arguments);
    case 64:
        return launch_attention<64>(cuda, arguments);
    case 80:
        return launch_attention<80>(cuda, arguments);
    case 96:
        return launch_attention<96>(cuda, arguments);
    case 112:
        return launch_attention<112>(cuda, arguments);
    default:
        if (cuda->facts.shared_bytes < 2 * (AHEAD_MOST + 1) * page_layout<128>::PAGE)
            return launch_attention<128, AHEAD_LEAST>(cuda, arguments);
        return launch_attention<128>(cuda, arguments);
    }
}

extern "C" void cuda_attention(struct backend *backend, void *out, const void *qkv, int32_t layer)
{
    struct cuda_backend *cuda = cuda_self(backend);
    const struct attention_shape *shape = &cuda->limits.attention;
    const int64_t bytes = (int64_t)sizeof(uint16_t) * shape->heads * shape->head_dim;
    cuda_overwrites(cuda, out, (size_t)(cuda->step.rows * bytes));
    struct attention_arguments arguments = {};
    arguments.counts = cuda->tables.counts;
    arguments.items = cuda->tables.items;
    arguments.part_first = cuda->tables.part_first;
    arguments.position = cuda->tables.position;
    arguments.shadow = cuda->tables.shadow;
    arguments.line = cuda->tables.line;
    arguments.page_table = cuda->tables.page_table;
    arguments.qkv = (const uint16_t *)qkv;
    arguments.keys = cuda->keys + layer * cuda_layer_elements(cuda);
    arguments.values = cuda->values + layer * cuda_layer_elements(cuda);
    arguments.out = (uint16_t *)out;
    arguments.part_sums = cuda->part_sums;
    arguments.part_norms = cuda->part_norms;
    arguments.pages_per_line = cuda->tables.pages_per_line;
    arguments.heads = shape->heads;
    arguments.kv_heads = shape->kv_heads;
    arguments.head_dim = shape->head_dim;
    arguments.scale = SIMT_LOG2_E / sqrtf((float)shape->head_dim);
    launch_padded(cuda, arguments);
    if (cuda->parts)
        cuda_merge_parts(cuda, arguments.out);
}
