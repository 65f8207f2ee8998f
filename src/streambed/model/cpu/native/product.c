/* Products of few rows with packed weights. */
#include "parts.h"

enum { MOST_TILE = 8 };

/* `rows` rows times 16 * vectors of a block's outputs. */
INLINE void tile(const sb_matrix *m, int format, const char *block, int first, const char *x, int rows, int vectors,
                 float *y) {
    v16 acc[MOST_TILE][4] = {};
    int64_t row_bytes = sb_row_bytes(format, m->inputs);
    if (format == SB_BFLOAT16) {
        const uint16_t *w = (const uint16_t *)block + 2 * first;
        for (int k = 0; k < m->padded / 2; k++, w += 2 * m->block)
            for (int r = 0; r < rows; r++) {
                uint32_t pair = ((const uint32_t *)(x + r * row_bytes))[k];
                for (int v = 0; v < vectors; v++) acc[r][v] = add_pairs(acc[r][v], w + 32 * v, pair);
            }
    } else {
        const float *w = (const float *)block + first;
        for (int k = 0; k < m->inputs; k++, w += m->block)
            for (int r = 0; r < rows; r++) {
                float value = ((const float *)(x + r * row_bytes))[k];
                for (int v = 0; v < vectors; v++) acc[r][v] += load(w + 16 * v) * value;
            }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(y + r * SB_MOST_BLOCK + first + 16 * v, acc[r][v]);
}

/* All rows, in tiles as large as registers allow and as equal as can be: each reads the weights again, from the cache. */
INLINE void tiles(const sb_matrix *m, int format, const char *block, int first, const char *x, int rows, int vectors,
                  float *y) {
    for (int left = (rows + MOST_TILE - 1) / MOST_TILE; left; left--) {
        int some = (rows + left - 1) / left;
        switch (some) {
        case 8: tile(m, format, block, first, x, 8, vectors, y); break;
        case 7: tile(m, format, block, first, x, 7, vectors, y); break;
        case 6: tile(m, format, block, first, x, 6, vectors, y); break;
        case 5: tile(m, format, block, first, x, 5, vectors, y); break;
        case 4: tile(m, format, block, first, x, 4, vectors, y); break;
        case 3: tile(m, format, block, first, x, 3, vectors, y); break;
        case 2: tile(m, format, block, first, x, 2, vectors, y); break;
        default: tile(m, format, block, first, x, 1, vectors, y);
        }
        rows -= some;
        x += some * sb_row_bytes(format, m->inputs);
        y += some * SB_MOST_BLOCK;
    }
}

INLINE void outputs(const sb_matrix *m, int format, const char *block, const char *x, int rows, float *y) {
    int first = 0;
    for (; first + 32 <= m->block; first += 32) tiles(m, format, block, first, x, rows, 2, y);
    for (; first < m->block; first += 16) tiles(m, format, block, first, x, rows, 1, y);
}

/* The block's outputs for all rows, y [rows, SB_MOST_BLOCK], bias included. x: rows in the step's format. */
void sb_product_block(const sb_matrix *m, int format, const void *x, int rows, int block, float *y) {
    int64_t size = (int64_t)m->block * m->padded * sb_bytes(format);
    const char *w = (const char *)m->weight + block * size;
    if (format == SB_BFLOAT16) outputs(m, SB_BFLOAT16, w, x, rows, y);
    else outputs(m, SB_FLOAT32, w, x, rows, y);
    if (m->bias)
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < sb_outputs_of(m, block); n++)
                y[r * SB_MOST_BLOCK + n] += m->bias[block * m->block + n];
}

typedef struct {
    const sb_matrix *matrix;
    const void *x;
    float *y;
    int format, rows;
} product_job;

static void product_piece(void *of, int block) {
    product_job *job = of;
    const sb_matrix *m = job->matrix;
    float y[SB_MOST_ROWS * SB_MOST_BLOCK];
    sb_product_block(m, job->format, job->x, job->rows, block, y);
    for (int r = 0; r < job->rows; r++)
        memcpy(job->y + (int64_t)r * m->outputs + block * m->block, y + r * SB_MOST_BLOCK,
               sizeof(float) * sb_outputs_of(m, block));
}

void sb_product_rows(sb_pool *pool, const sb_matrix *m, int format, const void *x, float *y, int rows) {
    product_job job = {m, x, y, format, rows};
    sb_pool_run(pool, product_piece, &job, sb_blocks_of(m));
}

/* Rows of floats in the step's format, each padded with zeros to what a block has room for. */
void sb_operand(int format, const float *x, int rows, int size, void *y) {
    int64_t row_bytes = sb_row_bytes(format, size);
    for (int r = 0; r < rows; r++, x += size) {
        char *row = (char *)y + r * row_bytes;
        if (format == SB_FLOAT32) {
            memcpy(row, x, sizeof(float) * size);
            continue;
        }
        for (int i = 0; i < size; i++) ((uint16_t *)row)[i] = to_bf16(x[i]);
        memset((uint16_t *)row + size, 0, row_bytes - 2 * (int64_t)size);
    }
}

void sb_product(sb_pool *pool, const sb_matrix *m, int format, const float *x, float *y, int rows) {
    char operand[SB_MOST_ROWS * 4 * (SB_MOST_TEST_INPUTS + 32)];
    for (int first = 0; first < rows; first += SB_MOST_ROWS) {
        int some = rows - first < SB_MOST_ROWS ? rows - first : SB_MOST_ROWS;
        sb_operand(format, x + (int64_t)first * m->inputs, some, m->inputs, operand);
        sb_product_rows(pool, m, format, operand, y + (int64_t)first * m->outputs, some);
    }
}
