#include "slots.h"

enum { FEW = 8 }; /* rows of a piece where rows are worked on one by one */

typedef struct {
    const sb_step *step;
    const sb_layer *layer;
    const sb_matrix *matrix;
    const float *in, *norm;
    void *operand, *second; /* of the matrix, and of `up` beside `gate` */
    float *out;
    char *q, *k, *v;
    int rows, index;
} layer_job;

typedef struct {
    float *wide, *attended,
        *normed; /* queries, keys and values, or what the gate lets through; rows of heads; of hidden */
    char *operand, *second, *q, *k, *v;
    void *attention;
    int64_t bytes;
} room;

static int most(int a, int b) { return a > b ? a : b; }

static room divide(const sb_step *step) {
    int64_t rows = step->rows, queries = (int64_t)step->heads * step->dim, keys = (int64_t)step->kv_heads * step->dim;
    int64_t bytes = sb_bytes(step->format);
    int widest = most(most(step->hidden, step->mlp), (int)queries);
    room r;
    char *at = step->scratch;
    r.wide = (float *)at;
    at += sb_aligned(rows * most((int)(queries + 2 * keys), step->mlp) * 4);
    r.attended = (float *)at;
    at += sb_aligned(rows * queries * 4);
    r.normed = (float *)at;
    at += sb_aligned(rows * step->hidden * 4);
    r.operand = at;
    at += rows * sb_row_bytes(SB_FLOAT32, widest + 64); /* of any format */
    r.second = at;
    at += rows * sb_row_bytes(SB_FLOAT32, step->hidden + 64);
    r.q = at;
    at += sb_aligned(rows * queries * bytes);
    r.k = at;
    at += sb_aligned(rows * keys * bytes);
    r.v = at;
    at += sb_aligned(rows * keys * bytes);
    r.attention = at;
    r.bytes = at - (char *)step->scratch + sb_attention_bytes(step);
    return r;
}

int64_t sb_scratch_bytes(const sb_step *step) { return divide(step).bytes; }

ONCE void norm_row(const float *x, const float *weight, float *y, int size, float eps) {
    vf squares = {};
    int whole = size / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) squares += load(x + i) * load(x + i);
    float sum = total(squares);
    for (int i = whole; i < size; i++) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / size + eps);
    for (int i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
}

void sb_rms_norm(const float *x, const float *weight, float *y, int rows, int size, float eps) {
    for (int r = 0; r < rows; r++, x += size, y += size) norm_row(x, weight, y, size, eps);
}

static void by_rows(sb_pool *pool, sb_work work, layer_job *job) {
    sb_pool_run(pool, work, job, (job->rows + FEW - 1) / FEW);
}

static sb_range few(int rows, int piece) {
    return (sb_range){piece * FEW, (piece + 1) * FEW < rows ? (piece + 1) * FEW : rows};
}

static void operand_piece(void *of,
                          int piece) { /* rows as an operand of the matrix, normalised first where there is a norm */
    layer_job *job = of;
    const sb_matrix *m = job->matrix;
    sb_range at = few(job->rows, piece);
    const float *x = job->in + (int64_t)at.from * m->inputs;
    if (job->norm) {
        float *normed = job->out + (int64_t)at.from * m->inputs;
        sb_rms_norm(x, job->norm, normed, at.to - at.from, m->inputs, job->step->eps);
        x = normed;
    }
    sb_operand(m->format, x, at.to - at.from, m->inputs,
               (char *)job->operand + at.from * sb_row_bytes(m->format, m->inputs));
}

static void convert(int format, const float *x, int count, char *y) {
    if (format == SB_FLOAT32) memcpy(y, x, sizeof(float) * count);
    else sb_to_bf16(x, count, (uint16_t *)y);
}

/* A key or value as a record, and as floats as that record has them. */
ONCE void to_record(float *x, int dim, char *record) {
    sb_scale scale = sb_scale_of(x, dim);
    for (int d = 0; d < dim; d += LANES) {
        vi number = to_bytes(load(x + d), (vf){} + scale.factor) - 128;
        vc_any bytes = __builtin_convertvector(number, vc_any);
        memcpy(record + d, &bytes, LANES);
        store(x + d, __builtin_convertvector(number, vf) * scale.worth);
    }
    memcpy(record + dim, &scale.worth, 4);
}

/* Normalises and turns queries and keys, and writes keys and values to their slots; those of texts that have no memory
 * stay beside the rows. in [rows, heads + 2 kv_heads, dim]. */
static void place_piece(void *of, int piece) {
    layer_job *job = of;
    const sb_step *step = job->step;
    int heads = step->heads, kv = step->kv_heads, dim = step->dim, bytes = sb_bytes(step->format);
    const sb_span *span = step->span;
    sb_range at = few(job->rows, piece);
    for (int r = at.from; r < at.to; r++) {
        while (r >= span->first + span->rows) span++;
        const float *row = job->in + (int64_t)r * (heads + 2 * kv) * dim, *turn = step->turns + (int64_t)r * dim;
        for (int h = 0; h < heads + 2 * kv; h++) {
            const float *x = row + h * dim;
            float normed[SB_MOST_DIM], turned[SB_MOST_DIM];
            char *to = h < heads
                           ? job->q + ((int64_t)r * heads + h) * dim * bytes
                           : (h < heads + kv ? job->k : job->v) + ((int64_t)r * kv + (h - heads) % kv) * dim * bytes;
            if (h < heads + kv) {
                sb_rms_norm(x, job->layer->qk_norm + h * dim, normed, 1, dim, step->eps);
                for (int d = 0; d < dim; d += 2) {
                    turned[d] = normed[d] * turn[d] - normed[d + 1] * turn[d + 1];
                    turned[d + 1] = normed[d] * turn[d + 1] + normed[d + 1] * turn[d];
                }
                x = turned;
            }
            char record[SB_MOST_DIM + 4];
            if (h >= heads && step->kv_format == SB_INT8) { /* who reads it from memory finds no more */
                if (x != turned) x = memcpy(turned, x, sizeof(float) * dim);
                to_record(turned, dim, record);
            }
            convert(step->format, x, dim, to);
            if (h >= heads && span->keys && !span->borrows) {
                char *memory = h < heads + kv ? span->keys : span->values;
                int64_t slot = span->layer_stride * job->index + span->head_stride * ((h - heads) % kv) +
                               span->slot_stride * (span->past + r - span->first);
                memcpy(memory + slot * sb_bytes(step->kv_format), step->kv_format == SB_INT8 ? record : to,
                       (size_t)sb_slot_bytes(step));
            }
        }
    }
}

static void add_piece(void *of, int piece) { /* out += a product */
    layer_job *job = of;
    const sb_matrix *m = job->matrix;
    int block = piece / sb_chunks(job->rows);
    sb_range at = sb_chunk(job->rows, piece % sb_chunks(job->rows));
    float y[SB_CHUNK * SB_WIDTH];
    sb_product_block(m, (char *)job->operand + at.from * sb_row_bytes(m->format, m->inputs), at.to - at.from, block, y);
    int count = sb_outputs_of(m, block);
    for (int r = at.from; r < at.to; r++) {
        float *x = job->out + (int64_t)r * m->outputs + block * m->block;
        const float *found = y + (r - at.from) * SB_WIDTH;
        int n = 0;
        for (; n + LANES <= count; n += LANES) store(x + n, load(x + n) + load(found + n));
        for (; n < count; n++) x[n] += found[n];
    }
}

static void gate_piece(void *of, int piece) { /* silu(gate) * up */
    layer_job *job = of;
    const sb_matrix *gate = &job->layer->gate, *up = &job->layer->up;
    int block = piece / sb_chunks(job->rows);
    sb_range at = sb_chunk(job->rows, piece % sb_chunks(job->rows));
    float y[SB_CHUNK * SB_WIDTH], z[SB_CHUNK * SB_WIDTH];
    int rows = at.to - at.from;
    sb_product_block(gate, (char *)job->operand + at.from * sb_row_bytes(gate->format, gate->inputs), rows, block, y);
    sb_product_block(up, (char *)job->second + at.from * sb_row_bytes(up->format, up->inputs), rows, block, z);
    for (int r = at.from; r < at.to; r++) {
        float *out = job->out + (int64_t)r * gate->outputs + block * gate->block;
        float passed[SB_WIDTH];
        for (int n = 0; n < gate->block; n += LANES) {
            vf a = load(y + (r - at.from) * SB_WIDTH + n), zero = {};
            vf e = exponential(pick(a < zero, a, -a));
            store(passed + n, a * pick(a < zero, e, zero + 1) / (e + 1) * load(z + (r - at.from) * SB_WIDTH + n));
        }
        memcpy(out, passed, sizeof(float) * sb_outputs_of(gate, block));
    }
}

static void add_product(sb_pool *pool, const sb_matrix *matrix, layer_job *job, const float *in) {
    job->matrix = matrix, job->in = in, job->norm = NULL, job->out = job->step->x;
    by_rows(pool, operand_piece, job);
    sb_pool_run(pool, add_piece, job, sb_blocks_of(matrix) * sb_chunks(job->rows));
}

void sb_run_layer(sb_pool *pool, const sb_layer *layer, const sb_step *step, int index, int last) {
    room r = divide(step);
    layer_job job = {.step = step,
                     .layer = layer,
                     .rows = step->rows,
                     .index = index,
                     .operand = r.operand,
                     .q = r.q,
                     .k = r.k,
                     .v = r.v};

    job.matrix = &layer->qkv, job.in = step->x, job.norm = layer->attention_norm, job.out = r.normed;
    by_rows(pool, operand_piece, &job);
    sb_product_rows(pool, &layer->qkv, r.operand, r.wide, step->rows);
    job.in = r.wide;
    by_rows(pool, place_piece, &job);
    sb_attend(pool, step, index, r.q, r.k, r.v, r.attention, r.attended);
    if (last) { /* beyond this point a row serves only itself */
        int64_t queries = (int64_t)step->heads * step->dim;
        for (job.rows = 0; job.rows < step->wanted; job.rows++) {
            int row = step->want[job.rows];
            memmove(step->x + (int64_t)job.rows * step->hidden, step->x + (int64_t)row * step->hidden,
                    sizeof(float) * step->hidden);
            memmove(r.attended + job.rows * queries, r.attended + row * queries, sizeof(float) * queries);
        }
    }
    add_product(pool, &layer->output, &job, r.attended);
    job.matrix = &layer->gate, job.in = step->x, job.norm = layer->mlp_norm, job.out = r.normed;
    by_rows(pool, operand_piece, &job);
    job.second = r.operand;
    if (layer->up.format != layer->gate.format) { /* one of them would suffer from int8 */
        job.matrix = &layer->up, job.in = r.normed, job.norm = NULL, job.operand = job.second = r.second;
        by_rows(pool, operand_piece, &job);
        job.operand = r.operand;
    }
    job.out = r.wide;
    sb_pool_run(pool, gate_piece, &job, sb_blocks_of(&layer->gate) * sb_chunks(job.rows));
    add_product(pool, &layer->down, &job, r.wide);
}
