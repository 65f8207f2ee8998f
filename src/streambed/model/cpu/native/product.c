/* Products of the rows of an operand with weights in blocks. */
#include "matrix_units.h"

INLINE vf add_group(int format, vf acc, const char *w, uint32_t group) {
    float value;
    switch (format) {
    case SB_INT8: return (vf)add_quads((vi)acc, (const int8_t *)w, group);
    case SB_BFLOAT16: return add_pairs(acc, (const uint16_t *)w, group);
    default: memcpy(&value, &group, 4); return acc + load((const float *)w) * value;
    }
}

/* `rows` rows times LANES * vectors outputs. */
INLINE void tile(int format, const char *x, int64_t row_bytes, int rows, const char *w, int width, int groups,
                 int vectors, float *y) {
    vf acc[TILE_ROWS][TILE_VECTORS] = {};
    for (int g = 0; g < groups; g++, w += 4 * width)
        for (int r = 0; r < rows; r++) {
            uint32_t group = ((const uint32_t *)(x + r * row_bytes))[g];
            for (int v = 0; v < vectors; v++) acc[r][v] = add_group(format, acc[r][v], w + 4 * LANES * v, group);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(y + r * SB_WIDTH + LANES * v, acc[r][v]);
}

/* All rows, in tiles as large as registers allow and as equal as can be: each reads the weights again, from the cache. */
INLINE void tiles(int format, const char *x, int64_t row_bytes, int rows, const char *w, int width, int groups,
                  int vectors, float *y) {
    for (int left = (rows + TILE_ROWS - 1) / TILE_ROWS; left; left--) {
        int some = (rows + left - 1) / left;
        switch (some) {
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
                     int outputs, float *y) {
    /* However few the rows: each unit rounds in its own order, and a row is to have the same sums in every step. */
    if (format != SB_FLOAT32 && groups % 16 == 0 && has_matrix_units()) {
        multiply_in_tiles(format, x, row_bytes, rows, block, width, groups, outputs / 16, y);
        return;
    }
    int n = 0;
    for (; n + TILE_VECTORS * LANES <= outputs; n += TILE_VECTORS * LANES)
        tiles(format, x, row_bytes, rows, block + 4 * n, width, groups, TILE_VECTORS, y + n);
    for (; n < outputs; n += LANES) tiles(format, x, row_bytes, rows, block + 4 * n, width, groups, 1, y + n);
}

void sb_multiply(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width, int groups,
                 int outputs, float *y) {
    switch (format) {
    case SB_INT8: multiply(SB_INT8, x, row_bytes, rows, block, width, groups, outputs, y); break;
    case SB_BFLOAT16: multiply(SB_BFLOAT16, x, row_bytes, rows, block, width, groups, outputs, y); break;
    default: multiply(SB_FLOAT32, x, row_bytes, rows, block, width, groups, outputs, y);
    }
}

void sb_product_block(const sb_matrix *m, const void *x, int rows, int block, float *y) {
    int first = block * m->block, of_group = 4 / sb_bytes(m->format);
    int64_t row_bytes = sb_row_bytes(m->format, m->inputs), size = (int64_t)m->block * (m->padded / of_group) * 4;
    int groups = (int)(row_bytes - 64) / 4; /* what pads rows meets zeros, or what pads blocks does */
    groups = groups < m->padded / of_group ? groups : m->padded / of_group;
    sb_multiply(m->format, x, row_bytes, rows, (const char *)m->weight + block * size, m->block, groups, m->block, y);
    for (int r = 0; r < rows; r++) {
        float *row = y + r * SB_WIDTH;
        if (m->format == SB_INT8) {
            float worth = *(const float *)((const char *)x + (r + 1) * row_bytes - 64);
            for (int n = 0; n < m->block; n += LANES) {
                vi sum = (vi)load(row + n) - *(const vi_any *)(m->offsets + first + n);
                store(row + n, __builtin_convertvector(sum, vf) * (load(m->scales + first + n) * worth));
            }
        }
        for (int n = 0; m->bias && n < m->block; n += LANES) store(row + n, load(row + n) + load(m->bias + first + n));
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

sb_scale sb_scale_of(const float *x, int count) {
    vf highest = {}, sum = {};
    int whole = count / LANES * LANES;
    float tail[LANES] = {};
    memcpy(tail, x + whole, sizeof(float) * (count - whole));
    for (int i = 0; i < count; i += LANES) {
        vf value = load(i < whole ? x + i : tail), positive = pick(value > 0, value, -value);
        highest = pick(positive > highest, positive, highest);
        sum += positive;
    }
    float most = largest(highest);
    return (sb_scale){most > 0 ? 127 / most : 0, total(sum) < INFINITY ? most / 127 : NAN};
}

static void quantise(const float *x, int size, uint8_t *y) {
    sb_scale scale = sb_scale_of(x, size);
    int whole = size / LANES * LANES;
    float tail[LANES] = {};
    memcpy(tail, x + whole, sizeof(float) * (size - whole));
    memset(y + whole, 128, sb_aligned(size) - whole);
    for (int i = 0; i < size; i += LANES) {
        vb_any bytes = __builtin_convertvector(to_bytes(load(i < whole ? x + i : tail), (vf){} + scale.factor), vb_any);
        memcpy(y + i, &bytes, size - i < LANES ? size - i : LANES);
    }
    memcpy(y + sb_aligned(size), &scale.worth, 4);
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
