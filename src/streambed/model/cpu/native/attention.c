/* Attention of all spans of a step in one parallel region: a piece is a span's key-value head and a stretch of its keys, so
 * that one long text is divided among threads too. What pieces find is combined as in FlashDecoding. */
#include "parts.h"

typedef struct {
    int span, head, from, to, number; /* keys [from, to), the number-th stretch */
} stretch;

typedef struct {
    const sb_step *step;
    const char *q, *k, *v;
    stretch *stretches;
    float *found; /* [rows, heads, most stretches, dim + 2]: maximum, sum, weighted values */
    int layer, most;
    void *y;
} attend_job;

static int keys_of(const sb_span *span) { return span->past + span->rows; }

static int length_of(const sb_span *span) { /* of a stretch: so that no span has more than 32 */
    int share = (keys_of(span) + 31) / 32;
    return share > SB_PIECE_KEYS ? share : SB_PIECE_KEYS;
}

static int stretches_of(const sb_span *span) { return (keys_of(span) + length_of(span) - 1) / length_of(span); }

static int most_stretches(const sb_step *step) {
    int most = 1;
    for (int s = 0; s < step->spans; s++) {
        int count = stretches_of(&step->span[s]);
        most = count > most ? count : most;
    }
    return most;
}

static int64_t count_pieces(const sb_step *step) {
    int64_t count = 0;
    for (int s = 0; s < step->spans; s++) count += (int64_t)stretches_of(&step->span[s]) * step->kv_heads;
    return count;
}

int64_t sb_partial_bytes(const sb_step *step) {
    return count_pieces(step) * (int64_t)sizeof(stretch) + 64 +
           (int64_t)step->rows * step->heads * most_stretches(step) * (step->dim + 2) * 4;
}

INLINE v16 load_as(int format, const char *p, int i) {
    return format == SB_BFLOAT16 ? load_bf16((const uint16_t *)p + i) : load((const float *)p + i);
}

/* Products of up to four queries with the keys of a stretch; those of bfloat16 as pairs where the processor has such. */
INLINE void score(int format, const char *keys, int64_t slot_stride, int dim, int count, int queries,
                  const char *const *q, float *scores) {
    for (int j = 0; j < count; j++) {
        v16 dot[4] = {};
        const char *key = keys + j * slot_stride;
        int d = 0;
        if (format == SB_BFLOAT16)
            for (; d + 32 <= dim; d += 32)
                for (int i = 0; i < 4; i++)
                    dot[i] = add_products(dot[i], (const uint16_t *)key + d, (const uint16_t *)q[i] + d);
        for (; d < dim; d += 16) {
            v16 some = load_as(format, key, d);
            for (int i = 0; i < 4; i++) dot[i] += some * load_as(format, q[i], d);
        }
        float four[4];
        sums(dot, four);
        for (int i = 0; i < queries; i++) scores[i * count + j] = four[i];
    }
}

/* Sums 16 * vectors elements of the values, from the d-th on, by the weights of up to four queries. */
INLINE void gather(int format, const char *values, int64_t slot_stride, int d, int vectors, int count, int queries,
                   const float *weights, float **found) {
    v16 acc[4][4] = {};
    for (int j = 0; j < count; j++)
        for (int n = 0; n < vectors; n++) {
            v16 value = load_as(format, values + j * slot_stride, d + 16 * n);
            for (int i = 0; i < queries; i++) acc[i][n] += value * weights[i * count + j];
        }
    for (int i = 0; i < queries; i++)
        for (int n = 0; n < vectors; n++) store(found[i] + 2 + d + 16 * n, acc[i][n]);
}

/* What up to four queries find in a stretch. scores: [queries, keys of the stretch]. */
INLINE void look(const attend_job *job, int format, const stretch *at, int queries, const char *const *q, const int *limit,
                 const int *own, float **found, float *scores) {
    const sb_step *step = job->step;
    const sb_span *span = &step->span[at->span];
    int dim = step->dim, bytes = sb_bytes(format), count = at->to - at->from;
    const char *keys, *values;
    int64_t slot_stride;
    if (span->keys) {
        int64_t start = (span->layer_stride * job->layer + span->head_stride * at->head + span->slot_stride * at->from);
        slot_stride = span->slot_stride * bytes;
        keys = (const char *)span->keys + start * bytes;
        values = (const char *)span->values + start * bytes;
    } else {
        slot_stride = (int64_t)step->kv_heads * dim * bytes;
        int64_t start = (span->first + at->from) * slot_stride + (int64_t)at->head * dim * bytes;
        keys = job->k + start;
        values = job->v + start;
    }
    switch (dim) { /* a size that the compiler knows keeps the queries in registers */
    case 128: score(format, keys, slot_stride, 128, count, queries, q, scores); break;
    case 64: score(format, keys, slot_stride, 64, count, queries, q, scores); break;
    default: score(format, keys, slot_stride, dim, count, queries, q, scores);
    }
    for (int i = 0; i < queries; i++) {
        float *s = scores + i * count, most = -1e30f, total = 0;
        for (int j = 0; j < count; j++) {
            int slot = at->from + j;
            s[j] = slot < limit[i] || slot == own[i] ? s[j] : -1e30f;
            most = s[j] > most ? s[j] : most;
        }
        for (int j = 0; j < count; j++) {
            s[j] = s[j] <= -1e30f ? 0 : exponential(s[j] - most);
            total += s[j];
        }
        found[i][0] = most;
        found[i][1] = total;
    }
    int d = 0;
    for (; d + 64 <= dim; d += 64) gather(format, values, slot_stride, d, 4, count, queries, scores, found);
    for (; d < dim; d += 16) gather(format, values, slot_stride, d, 1, count, queries, scores, found);
}

static void attend_piece(void *of, int piece) {
    attend_job *job = of;
    const sb_step *step = job->step;
    const stretch *at = &job->stretches[piece];
    const sb_span *span = &step->span[at->span];
    int group = step->heads / step->kv_heads, queries = span->rows * group, dim = step->dim;
    float scores[4 * (at->to - at->from)];
    for (int first = 0; first < queries; first += 4) {
        int some = queries - first < 4 ? queries - first : 4, limit[4], own[4];
        const char *q[4]; /* where there are fewer, the first one again */
        float *found[4];
        for (int i = 0; i < some; i++) {
            int row = (first + i) / group, head = at->head * group + (first + i) % group;
            int64_t start = ((int64_t)(span->first + row) * step->heads + head) * dim;
            q[i] = job->q + start * sb_bytes(step->format);
            own[i] = span->past + row;
            limit[i] = span->limits_at < 0 ? own[i] : step->limits[span->limits_at + row];
            found[i] = job->found + (((int64_t)(span->first + row) * step->heads + head) * job->most + at->number) * (dim + 2);
        }
        for (int i = some; i < 4; i++) q[i] = q[0];
        if (step->format == SB_BFLOAT16) look(job, SB_BFLOAT16, at, some, q, limit, own, found, scores);
        else look(job, SB_FLOAT32, at, some, q, limit, own, found, scores);
    }
}

/* One row: what its heads found in their stretches, put together, as an operand's row. */
static void combine_piece(void *of, int row) {
    attend_job *job = of;
    const sb_step *step = job->step;
    int dim = step->dim, span = 0;
    while (row >= step->span[span].first + step->span[span].rows) span++;
    int count = stretches_of(&step->span[span]);
    float whole[step->heads * dim];
    for (int head = 0; head < step->heads; head++) {
        const float *found = job->found + ((int64_t)row * step->heads + head) * job->most * (dim + 2);
        float most = -1e30f, total = 0, *y = whole + head * dim;
        for (int n = 0; n < count; n++) most = found[n * (dim + 2)] > most ? found[n * (dim + 2)] : most;
        memset(y, 0, sizeof(float) * dim);
        for (int n = 0; n < count; n++) {
            const float *part = found + n * (dim + 2);
            float share = exponential(part[0] - most);
            total += share * part[1];
            for (int d = 0; d < dim; d++) y[d] += share * part[2 + d];
        }
        for (int d = 0; d < dim; d++) y[d] /= total;
    }
    sb_operand(step->format, whole, 1, step->heads * dim,
               (char *)job->y + row * sb_row_bytes(step->format, step->heads * dim));
}

void sb_attend(sb_pool *pool, const sb_step *step, int layer, const char *q, const char *k, const char *v, void *partial,
               void *y) {
    attend_job job = {step, q, k, v, (stretch *)partial, NULL, layer, most_stretches(step), y};
    int64_t pieces = 0;
    for (int s = 0; s < step->spans; s++) {
        const sb_span *span = &step->span[s];
        int length = length_of(span);
        for (int n = 0; n < stretches_of(span); n++)
            for (int head = 0; head < step->kv_heads; head++) {
                int to = (n + 1) * length < keys_of(span) ? (n + 1) * length : keys_of(span);
                job.stretches[pieces++] = (stretch){s, head, n * length, to, n};
            }
    }
    job.found = (float *)((char *)partial + (pieces * (int64_t)sizeof(stretch) + 63) / 64 * 64);
    sb_pool_run(pool, attend_piece, &job, (int)pieces);
    sb_pool_run(pool, combine_piece, &job, step->rows);
}
