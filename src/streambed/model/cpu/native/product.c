/* Products of the rows of an operand with weights in blocks. */
#include "matrix_units.h"

enum { MOST_TILE = 8 };

INLINE v16 add_group(int format, v16 acc, const char *w, uint32_t group) {
    float value;
    switch (format) {
    case SB_INT8: return (v16)add_quads((i16x)acc, (const int8_t *)w, group);
    case SB_BFLOAT16: return add_pairs(acc, (const uint16_t *)w, group);
    default: memcpy(&value, &group, 4); return acc + load((const float *)w) * value;
    }
}

/* `rows` rows times 16 * vectors outputs. */
INLINE void tile(int format, const char *x, int64_t row_bytes, int rows, const char *w, int width, int groups,
                 int vectors, float *y) {
    v16 acc[MOST_TILE][2] = {};
    for (int g = 0; g < groups; g++, w += 4 * width)
        for (int r = 0; r < rows; r++) {
            uint32_t group = ((const uint32_t *)(x + r * row_bytes))[g];
            for (int v = 0; v < vectors; v++) acc[r][v] = add_group(format, acc[r][v], w + 64 * v, group);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(y + r * SB_WIDTH + 16 * v, acc[r][v]);
}

/* All rows, in tiles as large as registers allow and as equal as can be: each reads the weights again, from the cache. */
INLINE void tiles(int format, const char *x, int64_t row_bytes, int rows, const char *w, int width, int groups,
                  int vectors, float *y) {
    for (int left = (rows + MOST_TILE - 1) / MOST_TILE; left; left--) {
        int some = (rows + left - 1) / left;
        switch (some) {
        case 8: tile(format, x, row_bytes, 8, w, width, groups, vectors, y); break;
        case 7: tile(format, x, row_bytes, 7, w, width, groups, vectors, y); break;
        case 6: tile(format, x, row_bytes, 6, w, width, groups, vectors, y); break;
        case 5: tile(format, x, row_bytes, 5, w, width, groups, vectors, y); break;
        case 4: tile(format, x, row_bytes, 4, w, width, groups, vectors, y); break;
        case 3: tile(format, x, row_bytes, 3, w, width, groups, vectors, y); break;
        case 2: tile(format, x, row_bytes, 2, w, width, groups, vectors, y); break;
        default: tile(format, x, row_bytes, 1, w, width, groups, vectors, y);
        }
        rows -= some;
        x += some * row_bytes;
        y += some * SB_WIDTH;
    }
}

INLINE void multiply(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width, int groups,
                     int vectors, float *y) {
    /* However few the rows: each unit rounds in its own order, and a row is to have the same sums in every step. */
    if (format != SB_FLOAT32 && groups % 16 == 0 && has_matrix_units()) {
        multiply_in_tiles(format, x, row_bytes, rows, block, width, groups, vectors, y);
        return;
    }
    int v = 0;
    for (; v + 2 <= vectors; v += 2) tiles(format, x, row_bytes, rows, block + 64 * v, width, groups, 2, y + 16 * v);
    if (v < vectors) tiles(format, x, row_bytes, rows, block + 64 * v, width, groups, 1, y + 16 * v);
}

void sb_multiply(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width, int groups,
                 int vectors, float *y) {
    switch (format) {
    case SB_INT8: multiply(SB_INT8, x, row_bytes, rows, block, width, groups, vectors, y); break;
    case SB_BFLOAT16: multiply(SB_BFLOAT16, x, row_bytes, rows, block, width, groups, vectors, y); break;
    default: multiply(SB_FLOAT32, x, row_bytes, rows, block, width, groups, vectors, y);
    }
}

void sb_product_block(const sb_matrix *m, const void *x, int rows, int block, float *y) {
    int first = block * m->block, of_group = 4 / sb_bytes(m->format);
    int64_t row_bytes = sb_row_bytes(m->format, m->inputs), size = (int64_t)m->block * (m->padded / of_group) * 4;
    int groups = (int)(row_bytes - (m->format == SB_INT8 ? 64 : 0)) /
                 4; /* what pads rows meets zeros, or what pads blocks does */
    groups = groups < m->padded / of_group ? groups : m->padded / of_group;
    sb_multiply(m->format, x, row_bytes, rows, (const char *)m->weight + block * size, m->block, groups, m->block / 16,
                y);
    for (int r = 0; r < rows; r++) {
        float *row = y + r * SB_WIDTH;
        if (m->format == SB_INT8) {
            float worth = *(const float *)((const char *)x + (r + 1) * row_bytes - 64);
            for (int n = 0; n < m->block; n += 16) {
                i16x sum = (i16x)load(row + n) - *(const i16x_any *)(m->offsets + first + n);
                store(row + n, __builtin_convertvector(sum, v16) * (load(m->scales + first + n) * worth));
            }
        }
        for (int n = 0; m->bias && n < m->block; n += 16) store(row + n, load(row + n) + load(m->bias + first + n));
    }
}

typedef struct {
    const sb_matrix *matrix;
    const char *x;
    float *y;
    int rows;
} product_job;

static void product_piece(void *of, int piece) {
    product_job *job = of;
    const sb_matrix *m = job->matrix;
    int block = piece / sb_chunks(job->rows); /* chunk after chunk, while a block is in the cache */
    sb_range at = sb_chunk(job->rows, piece % sb_chunks(job->rows));
    float y[SB_CHUNK * SB_WIDTH];
    sb_product_block(m, job->x + at.from * sb_row_bytes(m->format, m->inputs), at.to - at.from, block, y);
    for (int r = at.from; r < at.to; r++)
        memcpy(job->y + (int64_t)r * m->outputs + block * m->block, y + (r - at.from) * SB_WIDTH,
               sizeof(float) * sb_outputs_of(m, block));
}

void sb_product_rows(sb_pool *pool, const sb_matrix *m, const void *x, float *y, int rows) {
    product_job job = {m, x, y, rows};
    sb_pool_run(pool, product_piece, &job, sb_blocks_of(m) * sb_chunks(rows));
}

static void quantise(const float *x, int size, uint8_t *y) {
    v16 highest = {}, sum = {};
    float *worth = (float *)(y + sb_aligned(size)), tail[16] = {};
    int whole = size / 16 * 16;
    memcpy(tail, x + whole, sizeof(float) * (size - whole));
    for (int i = 0; i < size; i += 16) {
        v16 value = load(i < whole ? x + i : tail), positive = pick(value > 0, value, -value);
        highest = pick(positive > highest, positive, highest);
        sum += positive;
    }
    float most = largest(highest);
    v16 scale = (v16){} + (most > 0 ? 127 / most : 0), low = (v16){} - 127, high = (v16){} + 127;
    memset(y + whole, 128, sb_aligned(size) - whole);
    for (int i = 0; i < size; i += 16) {
        v16 value = load(i < whole ? x + i : tail) * scale;
        value = pick(value > low, value, low);
        value = pick(value < high, value, high) + 128.5f; /* positive: cut is rounded */
        b16_any bytes = __builtin_convertvector(__builtin_convertvector(value, i16x), b16_any);
        memcpy(y + i, &bytes, size - i < 16 ? size - i : 16);
    }
    *worth = total(sum) < INFINITY ? most / 127 : NAN; /* what is no number is not to become one */
}

void sb_operand(int format, const float *x, int rows, int size, void *y) {
    int64_t row_bytes = sb_row_bytes(format, size);
    for (int r = 0; r < rows; r++, x += size) {
        char *row = (char *)y + r * row_bytes;
        if (format == SB_INT8) {
            quantise(x, size, (uint8_t *)row);
            continue;
        }
        int64_t used = (int64_t)size * sb_bytes(format);
        if (format == SB_BFLOAT16) sb_to_bf16(x, size, (uint16_t *)row);
        else memcpy(row, x, used);
        memset(row + used, 0, row_bytes - used);
    }
}

int64_t sb_operand_bytes(int format, int size, int rows) { return sb_row_bytes(format, size) * rows; }

void sb_product(sb_pool *pool, const sb_matrix *m, const float *x, float *y, int rows, void *operand) {
    sb_operand(m->format, x, rows, m->inputs, operand);
    sb_product_rows(pool, m, operand, y, rows);
}
