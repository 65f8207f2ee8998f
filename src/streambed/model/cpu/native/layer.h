/* Decoder layers over the rows of a step, for Qwen3 (arXiv 2505.09388). Plain pointers; all sizes are in elements. A
 * weight lies in blocks of `block` outputs, each with all of its inputs, in groups of four bytes: a float, two of
 * bfloat16, or four of int8. That is how oneDNN packs the first two. */
#pragma once
#include "pool.h"

enum { SB_FLOAT32 = 0, SB_BFLOAT16 = 1, SB_INT8 = 2 };

typedef struct {
    const void *weight;
    const float *bias;   /* for each output, as are the next two, also for those that fill up the last block; or NULL */
    const float *scales; /* of int8: what one is worth */
    const int32_t *offsets; /* of int8: 128 times the sum of its weights, by which operands stand too high */
    int32_t format, outputs, inputs, block, padded; /* padded: inputs that a block has room for */
} sb_matrix;

typedef struct {
    const float *attention_norm; /* [hidden] */
    const float *qk_norm;        /* [heads + kv_heads, dim]; the queries' part carries the scale */
    const float *mlp_norm;       /* [hidden] */
    sb_matrix qkv, output, gate, up, down;
} sb_layer;

/* Rows of one text, one after another, in the slots from `past` on. A row sees the slots below its limit, and its own.
 * Spans stand in the order of their rows, and every row is in one. In int8 a slot is a record: a byte for each dimension,
 * and what one is worth, as a float. */
typedef struct {
    int32_t first, rows, past;
    int32_t limits_at; /* where this span's limits begin; -1 is causal order */
    int32_t borrows;   /* whether the slots below `past` are another text's: the rows' own stay beside the rows */
    void *keys;        /* of the first layer, [kv_heads, slots, dim]; NULL: the rows see only one another */
    void *values;
    int64_t head_stride, slot_stride, layer_stride;
} sb_span;

typedef struct {
    int32_t format, kv_format, rows, hidden, heads, kv_heads, dim, mlp, spans, wanted;
    float eps;
    float *x;           /* [rows, hidden]: the hidden states, in and out */
    const float *turns; /* [rows, dim]: cosine and sine of each pair */
    const int32_t *limits;
    const int32_t *want; /* rows that go on after the last layer's attention */
    const sb_span *span;
    void *scratch; /* sb_scratch_bytes of it, from a multiple of 64 on */
} sb_step;

/* Bytes of scratch memory that a step needs. */
SB_PUBLIC int64_t sb_scratch_bytes(const sb_step *step);
/* Runs a layer. After the attention of the last one the wanted rows alone go on, and end as the first rows of x. */
SB_PUBLIC void sb_run_layer(sb_pool *pool, const sb_layer *layer, const sb_step *step, int index, int last);
/* y = x / rms(x) * weight, rows [rows, size]. */
SB_PUBLIC void sb_rms_norm(const float *x, const float *weight, float *y, int rows, int size, float eps);
/* y[rows, outputs] = x[rows, inputs] times the matrix. operand: sb_operand_bytes of scratch memory, from a multiple of 64
 * on. */
SB_PUBLIC void sb_product(sb_pool *pool, const sb_matrix *matrix, const float *x, float *y, int rows, void *operand);
SB_PUBLIC int64_t sb_operand_bytes(int format, int size, int rows);
