/* What the parts of a layer share. */
#pragma once
#include "layer.h"
#include "vector.h"

enum {
    SB_CHUNK = 128, /* rows of a piece of work: what it finds stays in the cache */
    SB_WIDTH = 64,  /* outputs of a block at most */
    SB_MOST_DIM = 256,
};

typedef struct {
    int from, to;
} sb_range;

static inline int sb_bytes(int format) { return format == SB_FLOAT32 ? 4 : format == SB_BFLOAT16 ? 2 : 1; }
/* Of a key or value in memory. */
static inline int64_t sb_slot_bytes(const sb_step *step) {
    return step->kv_format == SB_INT8 ? step->dim + 4 : (int64_t)step->dim * sb_bytes(step->format);
}
static inline int64_t sb_aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
static inline int sb_chunks(int rows) { return (rows + SB_CHUNK - 1) / SB_CHUNK; }
static inline sb_range sb_chunk(int rows, int number) {
    int from = number * SB_CHUNK, left = rows - from;
    return (sb_range){from, from + (left < SB_CHUNK ? left : SB_CHUNK)};
}
/* Of a row of an operand: padded to whole units of 64 bytes, behind which one is left free. Without it rows would lie a
 * power of two apart, and sixteen of them in few sets of a cache; behind those of int8 stands what one is worth. */
static inline int64_t sb_row_bytes(int format, int size) { return sb_aligned((int64_t)size * sb_bytes(format)) + 64; }
static inline int sb_blocks_of(const sb_matrix *m) { return (m->outputs + m->block - 1) / m->block; }
static inline int sb_outputs_of(const sb_matrix *m, int block) {
    int left = m->outputs - block * m->block;
    return left < m->block ? left : m->block;
}

/* What floats are multiplied with so that the largest becomes 127, and what one is worth then: no number where one of
 * them is none. */
typedef struct {
    float factor, worth;
} sb_scale;
sb_scale sb_scale_of(const float *x, int count);
/* Rows of floats as an operand of products in that format. Those of int8 are scaled each by its largest value, and stand
 * 128 too high: what VNNI multiplies with is unsigned. */
void sb_operand(int format, const float *x, int rows, int size, void *y);
/* y [rows, SB_WIDTH]: rows of an operand, `row_bytes` apart, times a block [groups][width][four bytes]. Sums of int8 are
 * integers in the place of floats. */
void sb_multiply(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width, int groups,
                 int outputs, float *y);
/* The block's outputs for the rows of an operand, y [rows, SB_WIDTH], bias included. At most SB_CHUNK rows. */
void sb_product_block(const sb_matrix *m, const void *x, int rows, int block, float *y);
void sb_product_rows(sb_pool *pool, const sb_matrix *m, const void *x, float *y, int rows);
/* Attends: q [rows, heads * dim] and the rows' own keys and values [rows, kv_heads * dim] in the step's format; y in
 * floats. memory: sb_attention_bytes. */
void sb_attend(sb_pool *pool, const sb_step *step, int layer, const char *q, const char *k, const char *v, void *memory,
               float *y);
int64_t sb_attention_bytes(const sb_step *step);
