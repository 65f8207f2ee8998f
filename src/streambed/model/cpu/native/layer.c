#include "parts.h"

typedef struct {
    const sb_step *step;
    const sb_layer *layer;
    const void *x;
    void *y;
    const sb_matrix *matrix;
    int rows;
} layer_job;

int sb_most_rows(void) { return SB_MOST_ROWS; }

void sb_rms_norm(const float *x, const float *weight, float *y, int rows, int size, float eps) {
    for (int r = 0; r < rows; r++, x += size, y += size) {
        float squares = 0;
        for (int i = 0; i < size; i++) squares += x[i] * x[i];
        float scale = 1.0f / sqrtf(squares / size + eps);
        for (int i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
    }
}

/* Normalises and turns queries and keys, and writes keys and values to their slots; those of texts that have no memory stay
 * beside the rows. qkv [rows, heads + 2 kv_heads, dim]. */
static void place(const sb_step *step, const sb_layer *layer, int index, float *qkv, char *q, char *k, char *v) {
    int heads = step->heads, kv = step->kv_heads, dim = step->dim, bytes = sb_bytes(step->format);
    for (int s = 0; s < step->spans; s++) {
        const sb_span *span = &step->span[s];
        for (int r = span->first; r < span->first + span->rows; r++) {
            float *row = qkv + (int64_t)r * (heads + 2 * kv) * dim;
            const float *turn = step->turns + (int64_t)r * dim;
            for (int h = 0; h < heads + 2 * kv; h++) {
                float *x = row + h * dim;
                char *to = h < heads ? q + ((int64_t)r * heads + h) * dim * bytes
                                     : (h < heads + kv ? k : v) + ((int64_t)r * kv + (h - heads) % kv) * dim * bytes;
                if (h < heads + kv) {
                    float turned[SB_MOST_DIM];
                    sb_rms_norm(x, layer->qk_norm + h * dim, turned, 1, dim, step->eps);
                    for (int d = 0; d < dim; d += 2) {
                        x[d] = turned[d] * turn[d] - turned[d + 1] * turn[d + 1];
                        x[d + 1] = turned[d] * turn[d + 1] + turned[d + 1] * turn[d];
                    }
                }
                if (step->format == SB_BFLOAT16)
                    for (int d = 0; d < dim; d++) ((uint16_t *)to)[d] = to_bf16(x[d]);
                else
                    memcpy(to, x, sizeof(float) * dim);
                if (h >= heads && span->keys) {
                    char *memory = h < heads + kv ? span->keys : span->values;
                    int64_t slot = span->layer_stride * index + span->head_stride * ((h - heads) % kv) +
                                   span->slot_stride * (span->past + r - span->first);
                    memcpy(memory + slot * bytes, to, (size_t)dim * bytes);
                }
            }
        }
    }
}

static void add_piece(void *of, int block) { /* x += a product */
    layer_job *job = of;
    const sb_matrix *m = job->matrix;
    float y[SB_MOST_ROWS * SB_MOST_BLOCK], *x = job->y;
    sb_product_block(m, job->step->format, job->x, job->rows, block, y);
    for (int r = 0; r < job->rows; r++)
        for (int n = 0; n < sb_outputs_of(m, block); n++)
            x[(int64_t)r * m->outputs + block * m->block + n] += y[r * SB_MOST_BLOCK + n];
}

static void gate_piece(void *of, int block) { /* silu(gate) * up, as the operand of the next product */
    layer_job *job = of;
    const sb_matrix *gate = &job->layer->gate, *up = &job->layer->up;
    float y[SB_MOST_ROWS * SB_MOST_BLOCK], z[SB_MOST_ROWS * SB_MOST_BLOCK];
    int format = job->step->format, count = sb_outputs_of(gate, block);
    sb_product_block(gate, format, job->x, job->rows, block, y);
    sb_product_block(up, format, job->x, job->rows, block, z);
    for (int r = 0; r < job->rows; r++) {
        char *row = (char *)job->y + r * sb_row_bytes(format, gate->outputs);
        for (int n = 0; n < count; n++) {
            float a = y[r * SB_MOST_BLOCK + n], e = exponential(a < 0 ? a : -a);
            float value = a * (a < 0 ? e : 1) / (1 + e) * z[r * SB_MOST_BLOCK + n];
            if (format == SB_BFLOAT16) ((uint16_t *)row)[block * gate->block + n] = to_bf16(value);
            else ((float *)row)[block * gate->block + n] = value;
        }
    }
}

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int64_t operand_bytes(const sb_step *step) {
    int size = step->hidden > step->mlp ? step->hidden : step->mlp;
    size = size > step->heads * step->dim ? size : step->heads * step->dim;
    return aligned(step->rows * sb_row_bytes(SB_FLOAT32, size + 32));
}

int64_t sb_scratch_bytes(const sb_step *step) {
    int64_t head = (int64_t)step->rows * step->dim * 4;
    return 2 * operand_bytes(step) + aligned(head * (step->heads + 2 * step->kv_heads)) + aligned(head * step->heads) +
           2 * aligned(head * step->kv_heads) + aligned((int64_t)step->rows * step->hidden * 4) + sb_partial_bytes(step) + 64;
}

static void run_layer(sb_pool *pool, const sb_layer *layer, const sb_step *step, int index, int last) {
    int64_t head = (int64_t)step->rows * step->dim * 4;
    char *at = step->scratch, *operand = at, *second = operand + operand_bytes(step);
    float *qkv = (float *)(second + operand_bytes(step));
    char *q = (char *)qkv + aligned(head * (step->heads + 2 * step->kv_heads)), *k = q + aligned(head * step->heads);
    char *v = k + aligned(head * step->kv_heads);
    float *normed = (float *)(v + aligned(head * step->kv_heads));
    char *partial = (char *)normed + aligned((int64_t)step->rows * step->hidden * 4);
    int rows = step->rows, format = step->format;

    sb_rms_norm(step->x, layer->attention_norm, normed, rows, step->hidden, step->eps);
    sb_operand(format, normed, rows, step->hidden, operand);
    sb_product_rows(pool, &layer->qkv, format, operand, qkv, rows);
    place(step, layer, index, qkv, q, k, v);
    sb_attend(pool, step, index, q, k, v, partial, operand);
    if (last) { /* beyond this point a row serves only itself */
        int64_t row_bytes = sb_row_bytes(format, step->heads * step->dim);
        for (rows = 0; rows < step->wanted; rows++) {
            memmove(step->x + (int64_t)rows * step->hidden, step->x + (int64_t)step->want[rows] * step->hidden,
                    sizeof(float) * step->hidden);
            memmove(operand + rows * row_bytes, operand + step->want[rows] * row_bytes, row_bytes);
        }
    }
    layer_job job = {step, layer, operand, step->x, &layer->output, rows};
    sb_pool_run(pool, add_piece, &job, sb_blocks_of(&layer->output));
    sb_rms_norm(step->x, layer->mlp_norm, normed, rows, step->hidden, step->eps);
    sb_operand(format, normed, rows, step->hidden, operand);
    if (format == SB_BFLOAT16) memset(second, 0, rows * sb_row_bytes(format, step->mlp)); /* what pads the rows */
    job.y = second;
    sb_pool_run(pool, gate_piece, &job, sb_blocks_of(&layer->gate));
    job = (layer_job){step, layer, second, step->x, &layer->down, rows};
    sb_pool_run(pool, add_piece, &job, sb_blocks_of(&layer->down));
}

void sb_run_layers(sb_pool *pool, const sb_layer *layers, const sb_step *step, int count) {
    for (int index = 0; index < count; index++) run_layer(pool, &layers[index], step, index, index + 1 == count);
}
