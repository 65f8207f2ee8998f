/* What the parts of a layer share. */
#pragma once
#include "layer.h"
#include "vector.h"

enum { SB_MOST_ROWS = 32, SB_MOST_BLOCK = 64, SB_MOST_TEST_INPUTS = 16384, SB_MOST_DIM = 256, SB_PIECE_KEYS = 256 };

static inline int sb_bytes(int format) { return format == SB_BFLOAT16 ? 2 : 4; }
static inline int64_t sb_row_bytes(int format, int size) { /* of an operand: whole blocks of pairs */
    return format == SB_BFLOAT16 ? (size + 31) / 32 * 64 : 4 * (int64_t)size;
}
static inline int sb_blocks_of(const sb_matrix *m) { return (m->outputs + m->block - 1) / m->block; }
static inline int sb_outputs_of(const sb_matrix *m, int block) {
    int left = m->outputs - block * m->block;
    return left < m->block ? left : m->block;
}

void sb_product_block(const sb_matrix *m, int format, const void *x, int rows, int block, float *y);
void sb_product_rows(sb_pool *pool, const sb_matrix *m, int format, const void *x, float *y, int rows);
void sb_operand(int format, const float *x, int rows, int size, void *y);
/* Attends: q [rows, heads * dim] and the rows' own keys and values [rows, kv_heads * dim] in the step's format; y in it, too,
 * as rows of an operand. */
void sb_attend(sb_pool *pool, const sb_step *step, int layer, const char *q, const char *k, const char *v, void *partial,
               void *y);
int64_t sb_partial_bytes(const sb_step *step);
