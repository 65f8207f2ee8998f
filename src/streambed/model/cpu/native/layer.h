/* One decoder layer over the few rows of a small step, for Qwen3 (arXiv 2505.09388). Plain pointers; all sizes are in
 * elements. Weights lie as oneDNN's packing leaves them: blocks of `block` outputs, each with all of its inputs; in
 * bfloat16 the inputs lie in pairs. Rows are few, so a step reads each weight once and little else. */
#pragma once
#include "pool.h"

enum { SB_FLOAT32 = 0, SB_BFLOAT16 = 1 };

typedef struct {
    const void *weight;
    const float *bias; /* [outputs], or NULL */
    int32_t outputs, inputs, block, padded; /* padded: inputs that a block has room for */
} sb_matrix;

typedef struct {
    const float *attention_norm; /* [hidden] */
    const float *qk_norm;        /* [heads + kv_heads, dim]; the queries' part carries the scale */
    const float *mlp_norm;       /* [hidden] */
    sb_matrix qkv, output, gate, up, down;
} sb_layer;

/* Rows of one text, one after another, in the slots from `past` on. A row sees the slots below its limit, and its own. Spans
 * stand in the order of their rows, and every row is in one. */
typedef struct {
    int32_t first, rows, past;
    int32_t limits_at; /* where this span's limits begin; -1 is causal order */
    void *keys;        /* of the first layer, [kv_heads, slots, dim]; NULL: the rows see only one another */
    void *values;
    int64_t head_stride, slot_stride, layer_stride;
} sb_span;

typedef struct {
    int32_t format, rows, hidden, heads, kv_heads, dim, mlp, spans, wanted;
    float eps;
    float *x;            /* [rows, hidden]: the hidden states, in and out */
    const float *turns;  /* [rows, dim]: cosine and sine of each pair */
    const int32_t *limits;
    const int32_t *want; /* rows that go on after the last layer's attention */
    const sb_span *span;
    void *scratch; /* sb_scratch_bytes of it, from a multiple of 64 on */
} sb_step;

/* Rows that a step may have. */
SB_PUBLIC int sb_most_rows(void);
/* Bytes of scratch memory that a step needs. */
SB_PUBLIC int64_t sb_scratch_bytes(const sb_step *step);
/* Runs all layers. After the last one's attention the wanted rows alone go on, and end as the first rows of x. */
SB_PUBLIC void sb_run_layers(sb_pool *pool, const sb_layer *layers, const sb_step *step, int count);
/* y = x / rms(x) * weight, rows [rows, size]. */
SB_PUBLIC void sb_rms_norm(const float *x, const float *weight, float *y, int rows, int size, float eps);
/* y[rows, outputs] = x[rows, inputs] times the matrix, for up to SB_MOST_TEST_INPUTS inputs: to see how the weights lie. */
SB_PUBLIC void sb_product(sb_pool *pool, const sb_matrix *matrix, int format, const float *x, float *y, int rows);
