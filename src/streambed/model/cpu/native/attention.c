/* Attention of all spans of a step in one parallel region. Keys and values are put in blocks such as weights lie in, 128
 * at a time, so that products do the work; what blocks find is added up as in FlashAttention (arXiv 2205.14135), within
 * stretches of 512 keys, which are then added up in their order. A row's sums depend on nothing but its position and what
 * it sees: how rows are divided among steps, pieces and threads changes no bit. */
#include "slots.h"

enum {
    STRETCH = 512, /* keys */
    QUERIES = 256, /* of a head that share blocks: putting keys and values in them is a tenth of the work then */
    FEW = 32,      /* queries of a head up to which stretches are pieces of their own */
};

typedef struct {
    int span, head, from, to, stretch; /* rows [from, to); of all stretches if -1 */
} part;

typedef struct {
    const sb_step *step;
    const char *q, *k, *v;
    int layer;
    float *y;
    part *parts;
    int *rows;    /* of spans of few rows */
    int64_t *at;  /* where in `found` each of them begins */
    float *found; /* of each [heads, stretches, dim + 2]: maximum, sum, weighted values */
} attention;

static int group_of(const sb_step *step) { return step->heads / step->kv_heads; }
static int is_few(const sb_step *step, const sb_span *span) { return span->rows * group_of(step) <= FEW; }
static int rows_of_part(const sb_step *step) { return QUERIES / group_of(step); }
static int position(const sb_step *step, const sb_span *span, int row) { /* what a row sees ends there, with itself */
    return span->limits_at < 0 ? span->past + row : step->limits[span->limits_at + row];
}
static int stretches_of(const sb_step *step, const sb_span *span) {
    return position(step, span, span->rows - 1) / STRETCH + 1; /* positions ascend */
}

/* Divides the memory for it; returns how many bytes that is. */
static int64_t divide(const sb_step *step, char *memory, attention *job) {
    int64_t parts = 0, found = 0;
    for (int s = 0; s < step->spans; s++) {
        const sb_span *span = &step->span[s];
        int stretches = stretches_of(step, span);
        parts += (int64_t)step->kv_heads * (is_few(step, span) ? stretches : span->rows / rows_of_part(step) + 1);
        if (is_few(step, span)) found += (int64_t)span->rows * step->heads * stretches * (step->dim + 2) * 4;
    }
    char *at = memory;
    job->parts = (part *)at;
    at += sb_aligned(parts * (int64_t)sizeof(part));
    job->rows = (int *)at;
    at += sb_aligned(step->rows * (int64_t)sizeof(int));
    job->at = (int64_t *)at;
    at += sb_aligned(step->rows * (int64_t)sizeof(int64_t));
    job->found = (float *)at;
    return at - memory + sb_aligned(found);
}

int64_t sb_attention_bytes(const sb_step *step) {
    attention job;
    return divide(step, NULL, &job);
}

static int in_memory(const sb_span *span, int slot) { return span->keys && !(span->borrows && slot >= span->past); }

static slots slots_from(const attention *job, const sb_span *span, int head, int slot) {
    int64_t bytes = sb_bytes(in_memory(span, slot) ? job->step->kv_format : job->step->format), size, at;
    if (in_memory(span, slot)) {
        size = span->slot_stride * bytes;
        at = (span->layer_stride * job->layer + span->head_stride * head) * bytes + slot * size;
        return (slots){(const char *)span->keys + at, (const char *)span->values + at, size};
    }
    size = (int64_t)job->step->kv_heads * job->step->dim * bytes;
    at = (span->first - span->past + slot) * size + head * job->step->dim * bytes;
    return (slots){job->k + at, job->v + at, size};
}

/* Slots in one piece and in the format that is computed in, where they lie in two, or as records: `count` from `at` on,
 * of which the last may be another. */
static slots gather(const attention *job, const sb_span *span, int head, int at, int count, int last, char *to) {
    const sb_step *step = job->step;
    int64_t bytes = (int64_t)step->dim * sb_bytes(step->format);
    for (int j = 0; j < count; j++) {
        int slot = j < count - 1 ? at + j : last;
        slots from = slots_from(job, span, head, slot);
        char *key = to + j * bytes, *value = to + (KEYS + j) * bytes;
        if (step->kv_format != SB_INT8 || !in_memory(span, slot)) {
            memcpy(key, from.keys, (size_t)bytes);
            memcpy(value, from.values, (size_t)bytes);
        } else if (step->format == SB_FLOAT32) {
            from_record(SB_FLOAT32, from.keys, step->dim, key);
            from_record(SB_FLOAT32, from.values, step->dim, value);
        } else {
            from_record(SB_BFLOAT16, from.keys, step->dim, key);
            from_record(SB_BFLOAT16, from.values, step->dim, value);
        }
    }
    return (slots){to, to + KEYS * bytes, bytes};
}

typedef struct {
    char q[QUERIES * SB_MOST_DIM * 4], weights[QUERIES * KEYS * 4];
    uint32_t block[KEYS * SB_MOST_DIM];
    float scores[KEYS / SB_WIDTH][QUERIES * SB_WIDTH], y[QUERIES * SB_MOST_DIM];
    float most[QUERIES], sum[QUERIES], fall[QUERIES];
    int seen[QUERIES];
    ahead next;
} __attribute__((aligned(64))) room;

/* The products of up to sixteen queries with keys as they lie, which become rows of tiles: nothing is put in blocks. Sums
 * have the order and the bits of `sb_multiply`'s, whose factors merely change places. */
#if SB_MATRIX_UNITS
static void score_few(const slots *s, int count, int padded, int dim, const char *q, int queries, room *r) {
    uint32_t block[SB_MOST_DIM / 2 * 16] __attribute__((aligned(64)));
    char rest[16 * SB_MOST_DIM * 2];
    float found[4][16 * 16] __attribute__((aligned(64)));
    static const char none[SB_MOST_DIM * 2];
    int groups = dim / 2;
    memset(block, 0, sizeof(uint32_t) * 16 * groups);
    for (int i = 0; i < queries; i++)
        for (int g = 0; g < groups; g++) block[g * 16 + i] = ((const uint32_t *)(q + (int64_t)i * dim * 2))[g];
    for (int at = 0; at < padded; at += SB_WIDTH) {
        const char *keys[4];
        int64_t bytes[4];
        for (int n = 0; n < 4; n++) {
            int from = at + 16 * n, some = count - from;
            keys[n] = some > 0 ? s->keys + from * s->bytes : none, bytes[n] = some > 0 ? s->bytes : 0;
            if (some <= 0 || some >= 16) continue;
            memset(rest, 0, sizeof rest);
            for (int j = 0; j < some; j++) memcpy(rest + j * dim * 2, keys[n] + j * bytes[n], (size_t)dim * 2);
            keys[n] = rest, bytes[n] = dim * 2;
        }
        multiply_keys(keys, bytes, block, groups, found);
        for (int n = 0; n < 4; n++) {
            vu rows[16];
            fetch(&r->next, 16);
            for (int j = 0; j < 16; j++) rows[j] = (vu)load(found[n] + 16 * j);
            transpose(rows);
            for (int i = 0; i < queries; i++) store(r->scores[at / SB_WIDTH] + i * SB_WIDTH + 16 * n, (vf)rows[i]);
        }
    }
}

/* Their weights times values, SB_WIDTH dimensions from the first-th on: pairs of keys are put together just before tiles
 * of them are multiplied. */
static void sum_few(const slots *s, int count, int padded, int first, int queries, room *r, float *y) {
    uint32_t pairs[16 * SB_WIDTH] __attribute__((aligned(64)));
    start_sums(queries);
    for (int at = 0; at < padded; at += 32) {
        slots some = {s->keys, s->values + at * s->bytes, s->bytes};
        pack_values(SB_BFLOAT16, &some, count - at, 32, first, SB_WIDTH, &r->next, pairs);
        add_products(r->weights + 2 * at, 2 * KEYS, pairs);
    }
    store_sums(y);
}
#endif

/* A query's products with the first `seen` of `padded` keys become weights, as the row of an operand; i: the query in the
 * block, n: in the room. What it had found before is to be multiplied with `fall`. */
INLINE void weigh(int format, room *r, int padded, int i, int n) {
    vf top = (vf){} + r->most[n], found = {};
    char *weights = r->weights + (int64_t)i * KEYS * sb_bytes(format);
    for (int j = 0; j < padded; j += LANES) {
        float *scores = r->scores[j / SB_WIDTH] + i * SB_WIDTH + j % SB_WIDTH;
        vf x = load(scores);
        if (r->seen[n] < padded) store(scores, x = pick(lanes() + j < r->seen[n], x, (vf){} + UNSEEN));
        top = pick(x > top, x, top);
    }
    float highest = largest(top);
    for (int j = 0; j < padded; j += LANES) {
        vf x = load(r->scores[j / SB_WIDTH] + i * SB_WIDTH + j % SB_WIDTH);
        vf weight = pick(x <= 0.5f * UNSEEN, (vf){}, exponential(x - highest)); /* what is no number stays none */
        found += weight;
        if (format == SB_FLOAT32) store((float *)weights + j, weight);
        else store_bf16((uint16_t *)weights + j, weight);
    }
    r->fall[i] = exponential_of(r->most[n] - highest);
    r->sum[n] = r->sum[n] * r->fall[i] + total(found);
    r->most[n] = highest;
}

/* What was found becomes the result. */
ONCE void divide_by(float *y, float sum, int dim) {
    for (int d = 0; d < dim; d += LANES) store(y + d, load(y + d) / sum);
}

/* Adds what was found elsewhere. */
ONCE void merge(float *most, float *sum, float *y, float their_most, float their_sum, const float *theirs, int dim) {
    float highest = *most > their_most ? *most : their_most;
    float mine = exponential_of(*most - highest), share = exponential_of(their_most - highest);
    *sum = *sum * mine + their_sum * share;
    *most = highest;
    for (int d = 0; d < dim; d += LANES) store(y + d, load(y + d) * mine + load(theirs + d) * share);
}

/* Queries from the first-th on over one block of keys. */
INLINE void attend_block_as(int format, int dim, const slots *s, int count, int first, int queries, room *r) {
    int bytes = sb_bytes(format), groups = dim * bytes / 4, padded = (count + SB_WIDTH - 1) / SB_WIDTH * SB_WIDTH;
    int64_t query_bytes = (int64_t)dim * bytes;
    int few = 0;
#if SB_MATRIX_UNITS
    few = format == SB_BFLOAT16 && queries <= 16 && dim % SB_WIDTH == 0 && has_matrix_units();
    if (few) score_few(s, count, padded, dim, r->q + first * query_bytes, queries, r);
#endif
    for (int at = 0; at < count && !few; at += SB_WIDTH) {
        slots some = {s->keys + at * s->bytes, s->values + at * s->bytes, s->bytes};
        pack_keys(&some, count - at < SB_WIDTH ? count - at : SB_WIDTH, groups, r->block);
        sb_multiply(format, r->q + first * query_bytes, query_bytes, queries, (char *)r->block, SB_WIDTH, groups,
                    SB_WIDTH, r->scores[at / SB_WIDTH]);
    }
    for (int i = 0; i < queries; i++) weigh(format, r, padded, i, first + i);
    for (int d = 0; d < dim; d += SB_WIDTH) {
        int width = dim - d < SB_WIDTH ? dim - d : SB_WIDTH;
#if SB_MATRIX_UNITS
        if (few) sum_few(s, count, padded, d, queries, r, r->scores[0]);
#endif
        if (!few) {
            pack_values(format, s, count, padded, d, width, &r->next, r->block);
            sb_multiply(format, r->weights, KEYS * bytes, queries, (char *)r->block, width, padded * bytes / 4, width,
                        r->scores[0]);
        }
        for (int i = 0; i < queries; i++) {
            float *y = r->y + (first + i) * dim + d, *found = r->scores[0] + i * SB_WIDTH;
            for (int n = 0; n < width; n += LANES) store(y + n, load(y + n) * r->fall[i] + load(found + n));
        }
    }
}

ONCE void attend_block(int format, int dim, const slots *s, int count, int first, int queries, room *r) {
    if (format == SB_BFLOAT16) attend_block_as(SB_BFLOAT16, dim, s, count, first, queries, r);
    else attend_block_as(SB_FLOAT32, dim, s, count, first, queries, r);
}

/* What rows [from, to) find in a stretch, in the room. Rows in the order of a text share blocks. Another kind of row, a
 * probe, has its own key and value in a slot that is not its position: it has the block that its position is in for
 * itself. */
static void attend_stretch(const attention *job, const sb_span *span, int head, int from, int to, int stretch, room *r) {
    const sb_step *step = job->step;
    int dim = step->dim, group = group_of(step), probes = span->limits_at >= 0;
    int last = position(step, span, to - 1);
    char shared[2 * KEYS * SB_MOST_DIM * 4], own[2 * KEYS * SB_MOST_DIM * 4];
    for (int i = 0; i < (to - from) * group; i++) r->most[i] = UNSEEN, r->sum[i] = 0;
    memset(r->y, 0, sizeof(float) * (to - from) * group * dim);
    for (int at = stretch * STRETCH; at < (stretch + 1) * STRETCH && at <= last; at += KEYS) {
        slots s = slots_from(job, span, head, at), next = slots_from(job, span, head, at + KEYS);
        int more = last - at - KEYS < KEYS ? last - at - KEYS + 1
                                           : KEYS; /* of the next block, which lie close together */
        r->next = (ahead){next.keys, next.values, next.bytes == sb_slot_bytes(step) ? more * next.bytes / 64 : 0};
        int in_two = span->borrows && at < span->past && last >= span->past && span->past < at + KEYS;
        if (in_two || (step->kv_format == SB_INT8 && in_memory(span, at)))
            s = gather(job, span, head, at, last - at < KEYS ? last - at + 1 : KEYS,
                       last - at < KEYS ? last : at + KEYS - 1, shared);
        int first = to; /* of the rows that see something of what they share */
        for (int row = to - 1; row >= from; row--) {
            int end = position(step, span, row), seen = end - at < KEYS ? end - at + 1 : KEYS;
            if (probes && end - at < KEYS) {
                if (end < at) continue;
                slots mine = gather(job, span, head, at, seen, span->past + row, own);
                for (int i = 0; i < group; i++) r->seen[(row - from) * group + i] = seen;
                attend_block(step->format, dim, &mine, seen, (row - from) * group, group, r);
                continue;
            }
            if (end < at) break;
            for (int i = 0; i < group; i++) r->seen[(row - from) * group + i] = seen;
            first = row;
        }
        int count = probes || last - at >= KEYS ? KEYS : last - at + 1;
        if (first < to) attend_block(step->format, dim, &s, count, (first - from) * group, (to - first) * group, r);
    }
}

static void attend_part(void *of, int piece) {
    attention *job = of;
    const sb_step *step = job->step;
    const part *p = &job->parts[piece];
    const sb_span *span = &step->span[p->span];
    int dim = step->dim, group = group_of(step), bytes = sb_bytes(step->format);
    room r;
    for (int row = p->from; row < p->to; row++)
        memcpy(r.q + (int64_t)(row - p->from) * group * dim * bytes,
               job->q + ((int64_t)(span->first + row) * step->heads + p->head * group) * dim * bytes,
               (size_t)group * dim * bytes);
    int stretches = stretches_of(step, span), start = p->stretch < 0 ? 0 : p->stretch,
        stop = p->stretch < 0 ? stretches : start + 1;
    float most[QUERIES], sum[QUERIES];
    for (int i = 0; i < (p->to - p->from) * group; i++) most[i] = UNSEEN, sum[i] = 0;
    for (int n = start; n < stop; n++) {
        if (n * STRETCH > position(step, span, p->to - 1)) break;
        attend_stretch(job, span, p->head, p->from, p->to, n, &r);
        for (int i = 0; i < (p->to - p->from) * group; i++) {
            int row = span->first + p->from + i / group, head = p->head * group + i % group;
            if (p->stretch < 0) {
                float *y = job->y + ((int64_t)row * step->heads + head) * dim;
                if (!n) memset(y, 0, sizeof(float) * dim);
                merge(most + i, sum + i, y, r.most[i], r.sum[i], r.y + i * dim, dim);
            } else {
                float *found = job->found + job->at[row] + ((int64_t)head * stretches + n) * (dim + 2);
                found[0] = r.most[i], found[1] = r.sum[i];
                memcpy(found + 2, r.y + i * dim, sizeof(float) * dim);
            }
        }
    }
    for (int i = 0; p->stretch < 0 && i < (p->to - p->from) * group; i++) {
        float *y = job->y +
                   ((int64_t)(span->first + p->from + i / group) * step->heads + p->head * group + i % group) * dim;
        divide_by(y, sum[i], dim);
    }
}

static void combine_row(void *of, int piece) { /* of a span of few: what its heads found in all stretches */
    attention *job = of;
    const sb_step *step = job->step;
    const sb_span *span = step->span;
    int dim = step->dim, row = job->rows[piece];
    while (row >= span->first + span->rows) span++;
    int stretches = stretches_of(step, span), own = position(step, span, row - span->first) / STRETCH;
    for (int head = 0; head < step->heads; head++) {
        float *y = job->y + ((int64_t)row * step->heads + head) * dim, most = UNSEEN, sum = 0;
        memset(y, 0, sizeof(float) * dim);
        for (int n = 0; n <= own; n++) {
            const float *found = job->found + job->at[row] + ((int64_t)head * stretches + n) * (dim + 2);
            merge(&most, &sum, y, found[0], found[1], found + 2, dim);
        }
        divide_by(y, sum, dim);
    }
}

void sb_attend(sb_pool *pool, const sb_step *step, int layer, const char *q, const char *k, const char *v, void *memory,
               float *y) {
    attention job = {.step = step, .q = q, .k = k, .v = v, .layer = layer, .y = y};
    divide(step, memory, &job);
    int parts = 0, rows = 0, some = rows_of_part(step);
    int64_t at = 0;
    /* Many rows first, and of those the ones that see most: what comes last is short. */
    for (int s = 0; s < step->spans; s++) {
        const sb_span *span = &step->span[s];
        if (is_few(step, span)) continue;
        for (int from = (span->rows - 1) / some * some; from >= 0; from -= some)
            for (int head = 0; head < step->kv_heads; head++)
                job.parts[parts++] = (part){s, head, from, from + some < span->rows ? from + some : span->rows, -1};
    }
    for (int s = 0; s < step->spans; s++) {
        const sb_span *span = &step->span[s];
        if (!is_few(step, span)) continue;
        int stretches = stretches_of(step, span);
        for (int n = 0; n < stretches; n++)
            for (int head = 0; head < step->kv_heads; head++) job.parts[parts++] = (part){s, head, 0, span->rows, n};
        for (int r = span->first; r < span->first + span->rows;
             r++, at += (int64_t)step->heads * stretches * (step->dim + 2)) {
            job.rows[rows++] = r;
            job.at[r] = at;
        }
    }
    sb_pool_run(pool, attend_part, &job, parts);
    sb_pool_run(pool, combine_row, &job, rows);
}
