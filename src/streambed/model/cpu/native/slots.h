/* Keys and values as they lie in memory, and how they become blocks that products are made with. */
#pragma once
#include "matrix_units.h"

enum { KEYS = 128 }; /* of a block */

typedef struct { /* keys and values that are worked on next: they come from far, line by line, meanwhile */
    const char *keys, *values;
    int lines; /* of each */
} ahead;

typedef struct { /* keys and values of one head, slot after slot */
    const char *keys, *values;
    int64_t bytes; /* from slot to slot */
} slots;

/* What a record says, in the format that is computed in. */
INLINE void from_record(int format, const char *record, int dim, char *y) {
    float worth;
    memcpy(&worth, record + dim, 4);
    for (int d = 0; d < dim; d += LANES)
        if (format == SB_FLOAT32) store((float *)(void *)y + d, from_bytes(record + d) * worth);
        else store_bf16((uint16_t *)(void *)y + d, from_bytes(record + d) * worth);
}

INLINE void fetch(ahead *next, int lines) {
    if (next->lines <= 0) return;
    next->lines -= lines;
    for (; lines; lines--, next->keys += 64, next->values += 64) {
        __builtin_prefetch(next->keys, 0, 2);
        __builtin_prefetch(next->values, 0, 2);
    }
}

/* Up to SB_WIDTH keys as a block whose outputs are keys: [groups][SB_WIDTH], in groups of four bytes. */
static inline void pack_keys(const slots *s, int count, int groups, uint32_t *block) {
    int whole = 0;
#if defined(__AVX512F__)
    for (; whole + 16 <= count; whole += 16)
        for (int g = 0; g + 16 <= groups; g += 16) {
            vu keys[16];
            for (int j = 0; j < 16; j++)
                keys[j] = *(const vu_any *)(const void *)(s->keys + (whole + j) * s->bytes + 4 * g);
            transpose(keys);
            for (int j = 0; j < 16; j++) *(vu_any *)(block + (g + j) * SB_WIDTH + whole) = keys[j];
        }
    for (int j = 0; j < whole; j++)
        for (int g = groups / 16 * 16; g < groups; g++)
            block[g * SB_WIDTH + j] = ((const uint32_t *)(s->keys + j * s->bytes))[g];
#endif
    for (int j = whole; j < count; j++)
        for (int g = 0; g < groups; g++) block[g * SB_WIDTH + j] = ((const uint32_t *)(s->keys + j * s->bytes))[g];
    for (int g = 0; g < groups && count < SB_WIDTH; g++)
        memset(block + g * SB_WIDTH + count, 0, 4 * (size_t)(SB_WIDTH - count));
}

/* Some dimensions of values as a block whose inputs are keys: [padded][width], in groups of four bytes. */
INLINE void pack_values(int format, const slots *s, int count, int padded, int first, int width, ahead *next,
                        uint32_t *block) {
    static const uint16_t none[SB_WIDTH];
    if (format == SB_FLOAT32) {
        for (int j = 0; j < count; j++)
            memcpy(block + j * width, s->values + j * s->bytes + 4 * first, 4 * (size_t)width);
        memset(block + count * width, 0, 4 * (size_t)(padded - count) * width);
        return;
    }
    for (int j = 0; j < padded; j += 2, block += width) {
        const char *values = s->values + j * s->bytes + 2 * first;
        fetch(next, 3);
        interleave(j < count ? (const uint16_t *)(const void *)values : none,
                   j + 1 < count ? (const uint16_t *)(const void *)(values + s->bytes) : none, width, block);
    }
}
